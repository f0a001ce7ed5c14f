"""The commented study that ``fedseg study new`` writes."""

STARTER = """\
# A study: everything that is trained. Check it with: fedseg study check FILE
name: abdomen            # short, lower case
dimensions: 3            # 2 for images of one slice, 3 for volumes

# Structures, in the order of their ids (1, 2, ...). The background is always there.
# A structure with a side keeps augmentation from ever swapping left and right.
labels:
  - liver
  - spleen
  - {name: left_kidney, side: left}
  - {name: right_kidney, side: right}

# hounsfield: clipped to the window, z-scored with statistics pooled over all sites.
# arbitrary: z-scored image by image. Every modality needs at least one site.
modalities:
  ct: {intensity: hounsfield, window: [-160, 240]}
  mr: {intensity: arbitrary}

spacing_mm: [2.0, 2.0, 3.0]   # all images are resampled to this; leave out to keep their own

network: {name: dynunet, filters: [16, 32, 64, 128], strides: [2, 2, 2], norm: group}
loss: dice_ce

training:
  steps: 50              # optimiser steps a round at each site
  batch: 2
  patch: [64, 64, 48]    # voxels; multiples of the network's total stride
  learning_rate: 1e-3

federation:
  rounds: 20
  method: fedavg
  minimum_sites: 2       # a round with fewer accepted updates stops the run, resumable

sharing: {norm: per_modality}      # everything, statistics_local, local: see docs
distillation: {weight: 0.5}        # class affinities across modalities; 0 switches it off
evaluation: {validation: 0.15, test: 0.2}   # shares of the people, the same at every site
seed: 1
"""
