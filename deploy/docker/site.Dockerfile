# syntax=docker/dockerfile:1
# The site's image: worker, node, messenger and agent, each started as a user of its own.
# From the checkout:  docker build -f deploy/docker/site.Dockerfile -t fedseg-site:0.1.0 .
# Pin the base:       --build-arg PYTHON_DIGEST=@sha256:...  (docker buildx imagetools inspect)
# For a graphics card the machine needs its driver and NVIDIA's container toolkit, no more.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG PYTHON_DIGEST=

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST} AS build
ARG TORCH=torch==2.13.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/fedseg
COPY constraints.txt ./
# the largest layer first: it changes least
RUN /opt/fedseg/bin/pip install --constraint constraints.txt "${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY client client
COPY common common
COPY deploy deploy
RUN /opt/fedseg/bin/pip install --constraint constraints.txt . \
 && /opt/fedseg/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST}
LABEL org.opencontainers.image.title="fedseg site" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN set -e; number=6200; \
    for user in worker node executor agent metrics; do \
      groupadd --gid $number fedseg-site-$user; \
      useradd --uid $number --gid $number --no-create-home --home-dir /nonexistent \
              --shell /usr/sbin/nologin fedseg-site-$user; \
      number=$((number + 1)); \
    done; \
    groupadd --gid $number fedseg-site; number=$((number + 1)); \
    for group in keys consent socket flower; do \
      groupadd --gid $number fedseg-site-$group; number=$((number + 1)); \
    done; \
    mkdir -p /var/lib/fedseg/site
COPY --from=build /opt/fedseg /opt/fedseg
ENV PATH=/opt/fedseg/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=fedseg HOME=/tmp \
    FEDSEG_SITE=/var/lib/fedseg/site \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
WORKDIR /var/lib/fedseg
USER 6203:6203
ENTRYPOINT ["/opt/fedseg/bin/fedseg"]
CMD ["--help"]
