# Two stages: wheels are installed in the first, the second has neither pip's cache nor a compiler. Runs as an ordinary
# user on a read-only file system; PostgreSQL and Redis are given by RECSVC_DATABASE_URL and RECSVC_REDIS_URL.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/recsvc
COPY requirements.lock ./
RUN /opt/recsvc/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY recsvc ./recsvc
RUN /opt/recsvc/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home recsvc
COPY --from=build /opt/recsvc /opt/recsvc
ENV PATH=/opt/recsvc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RECSVC_SERVER__HOST=0.0.0.0 \
    RECSVC_LOG_FORMAT=json
USER 10001
EXPOSE 50051 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["recsvc", "health", "localhost:50051"]
ENTRYPOINT ["recsvc"]
CMD ["serve"]
