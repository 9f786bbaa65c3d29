# syntax=docker/dockerfile:1
# HARMONY's image. Build it from the repository root:
#
#   docker build --tag harmony:0.1.0 .                                                   CPU
#   docker build --tag harmony:0.1.0-gpu --build-arg TORCH_INDEX_URL= --build-arg EXTRAS=controller,api,gpu .
#
# The base image is pinned by the digest of its list of platforms. A newer one is found, and tried, so:
#
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{json .Manifest.Digest}}'
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:<digest> --tag harmony:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# ---- builder: everything that needs pip ends in /opt/harmony -------------------------------------------------------
FROM ${PYTHON_IMAGE} AS builder

# Where torch comes from: PyTorch's CPU wheels by default (200 MB instead of several GB); empty for pip's own index.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# Without `api` the image runs the controller and nothing that needs it (chart value api.enabled).
ARG EXTRAS=controller,api

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# Without pip inside: the environment is copied into the runtime image as it is.
RUN python -m venv --without-pip /opt/harmony

# Only files whose hashes stand in requirements/ (`make hashes`) are taken, and what builds those that come as source is
# among them. torch first, so that a change of the code does not fetch it again; what its build for GPUs needs besides is
# in the list of the extra `gpu`.
COPY requirements/ requirements/
RUN python -m pip install --no-deps --require-hashes --requirement requirements/build.txt
RUN python -m pip --python /opt/harmony/bin/python install --no-deps --require-hashes \
    ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} --requirement requirements/torch.txt
RUN for part in base $(echo "${EXTRAS}" | tr ',' ' '); do \
      python -m pip wheel --no-deps --no-build-isolation --require-hashes --wheel-dir /wheels \
        --requirement "requirements/${part}.txt" || exit 1; \
    done \
    && python -m pip --python /opt/harmony/bin/python install --no-deps --no-index /wheels/*.whl

COPY pyproject.toml README.md LICENSE ./
COPY harmony/ harmony/
COPY forecasting/ forecasting/
COPY kernels/ kernels/
COPY controller/ controller/
COPY simulator/ simulator/
RUN python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /harmony . \
    && python -m pip --python /opt/harmony/bin/python install --no-deps --no-index /harmony/*.whl \
    && /opt/harmony/bin/python -m compileall -q /opt/harmony/lib

# ---- runtime: the interpreter and /opt/harmony; no compiler, no pip, no shell scripts of ours ----------------------
FROM ${PYTHON_IMAGE} AS runtime

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="HARMONY" \
      org.opencontainers.image.description="An autoscaler for GPU services that states the risk it takes" \
      org.opencontainers.image.source="https://github.com/harmony-autoscaler/harmony" \
      org.opencontainers.image.documentation="https://github.com/harmony-autoscaler/harmony/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Some libraries ask for the name of the user, so 65532 has one. Nothing is fetched here.
RUN python -m pip uninstall --yes --quiet pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.11/ensurepip \
    && groupadd --gid 65532 harmony \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin harmony

COPY --from=builder /opt/harmony /opt/harmony

# The root file system may be read-only: caches go to /tmp.
ENV PATH=/opt/harmony/bin:$PATH \
    HOME=/tmp \
    MPLBACKEND=Agg \
    MPLCONFIGDIR=/tmp/matplotlib \
    OMP_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000 8080 8081 9090
HEALTHCHECK NONE
ENTRYPOINT ["harmony"]
CMD ["controller"]
