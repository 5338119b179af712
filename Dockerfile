# Frankenlab with its locked dependencies. The workflow is in /opt/frankenlab, and its commands are
# on the path; docs/deploying.md says what the images are for.
#
#   docker build --target cpu --tag ghcr.io/frankenlab/frankenlab:VERSION .
#   docker build --target cuda --tag ghcr.io/frankenlab/frankenlab:VERSION-cuda .

FROM python:3.12-slim-bookworm AS cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Snakemake reads workflows on git hosts with git.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/frankenlab
COPY requirements.lock ./
# torch comes first: what asks for it later takes the one that is there. With the address of PyTorch's
# CPU builds as TORCH_INDEX the image is gigabytes smaller.
ARG TORCH_INDEX=
RUN pip install --constraint requirements.lock ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY . .
RUN pip install --constraint requirements.lock .
WORKDIR /work
CMD ["frankenlab", "--help"]

# exllamav2 compiles its extension when it is first imported, for the GPU that it finds: that needs
# nvcc and a compiler, which the devel image has, and takes minutes once for each user.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN apt-get update \
  && apt-get install --yes --no-install-recommends git python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/* \
  && python3 -m venv /opt/venv
WORKDIR /opt/frankenlab
COPY requirements.lock ./
RUN pip install --constraint requirements.lock torch
COPY . .
RUN pip install --constraint requirements.lock '.[exl2]'
WORKDIR /work
CMD ["frankenlab", "--help"]
