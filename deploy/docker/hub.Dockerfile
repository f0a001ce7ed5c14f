# syntax=docker/dockerfile:1
# The hub's image: all of its processes, each started as a user of its own by compose or Kubernetes.
# From the checkout:  docker build -f deploy/docker/hub.Dockerfile -t fedseg-hub:0.1.0 .
# Pin the base:       --build-arg PYTHON_DIGEST=@sha256:...  (docker buildx imagetools inspect)
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG PYTHON_DIGEST=

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/fedseg
COPY constraints.txt deploy/docker/hub-requirements.txt ./
RUN /opt/fedseg/bin/pip install --constraint constraints.txt --requirement hub-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY client client
COPY common common
COPY deploy deploy
# without what fedseg depends on at a site: a hub that cannot read an image
RUN /opt/fedseg/bin/pip install --constraint constraints.txt hatchling \
 && /opt/fedseg/bin/pip install --no-deps --no-build-isolation . \
 && /opt/fedseg/bin/pip uninstall --yes hatchling trove-classifiers pluggy pip

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST}
LABEL org.opencontainers.image.title="fedseg hub" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx-light \
 && rm -rf /var/lib/apt/lists/* \
 && set -e; number=6100; \
    for user in superlink executor control registrar proxy metrics; do \
      groupadd --gid $number fedseg-$user; \
      useradd --uid $number --gid $number --no-create-home --home-dir /nonexistent \
              --shell /usr/sbin/nologin fedseg-$user; \
      number=$((number + 1)); \
    done; \
    for group in hub register journal runs flower; do \
      groupadd --gid $number fedseg-$group; number=$((number + 1)); \
    done; \
    mkdir -p /var/lib/fedseg/hub \
 && ln -s register/registry.db /var/lib/fedseg/hub/registry.db
COPY --from=build /opt/fedseg /opt/fedseg
ENV PATH=/opt/fedseg/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=fedseg HOME=/tmp \
    FEDSEG_HUB=/var/lib/fedseg/hub \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
WORKDIR /var/lib/fedseg
USER 6102:6102
ENTRYPOINT ["/opt/fedseg/bin/fedseg"]
CMD ["--help"]
