# CPU: docker build -t optim .            GPU: docker build --build-arg EXTRA=cuda -t optim-gpu .
# Run: docker run --rm -v "$PWD:/work" optim run
FROM python:3.13-slim
ARG EXTRA=""
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY optim optim
COPY configs configs
COPY datasets datasets
RUN uv pip install --system --no-cache -c constraints.txt ".${EXTRA:+[$EXTRA]}" && rm -rf /src
RUN useradd --create-home optim && mkdir /work && chown optim /work
USER optim
WORKDIR /work
ENTRYPOINT ["optim"]
CMD ["--help"]
