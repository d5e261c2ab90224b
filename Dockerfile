# The image that workers run in, on Dataflow (--sdk_container_image) or any runner with --environment_type=DOCKER: Beam's
# own for this Python and this Beam, with our wheel and the pinned versions of all that it needs.
#
#   docker build --tag REGION-docker.pkg.dev/PROJECT/REPOSITORY/byteproxy . && docker push REGION-docker.pkg.dev/…
#
# A build with --detect-language needs --build-arg EXTRAS=pipeline,magika; with the view neural, EXTRAS=pipeline,neural, whose
# torch has CUDA with it, for workers with a GPU.
# Make it anew with every change of the code: a worker with other code than the build's own refuses to work.
ARG PYTHON=3.11
ARG BEAM=2.77.0

FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS wheel
WORKDIR /opt/byteproxy
COPY pyproject.toml README.md ./
COPY shards shards
COPY pipeline pipeline
COPY trainer trainer
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist .

FROM apache/beam_python${PYTHON}_sdk:${BEAM}
ARG EXTRAS=pipeline
WORKDIR /opt/byteproxy
COPY constraints.txt ./
COPY --from=wheel /opt/byteproxy/dist dist
RUN python -m pip install --no-cache-dir --constraint constraints.txt "$(ls dist/byteproxy-*.whl)[${EXTRAS}]" \
    && python -c "import pipeline.graph, pipeline.running.dataflow"
ENTRYPOINT ["/opt/apache/beam/boot"]
