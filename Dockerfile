# Two stages: packages are installed in the first; the second has Python and nothing else: no shell, no package manager,
# no compiler. Runs as a numbered user on a read-only file system (docker run --read-only --tmpfs /tmp); PostgreSQL and
# Redis are given by RECSVC_DATABASE_URL and RECSVC_REDIS_URL. Both bases have Debian 12 and its Python 3.11.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN ["pip", "install", "--no-cache-dir", "--require-hashes", "--target", "/opt/recsvc", "-r", "requirements.lock"]
COPY pyproject.toml README.md ./
COPY recsvc ./recsvc
RUN ["pip", "install", "--no-cache-dir", "--no-deps", "--target", "/opt/recsvc", "."]

FROM gcr.io/distroless/python3-debian12:nonroot
COPY --from=build /opt/recsvc /opt/recsvc
ENV PYTHONPATH=/opt/recsvc \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RECSVC_SERVER__HOST=0.0.0.0 \
    RECSVC_LOG_FORMAT=json
USER 10001:10001
EXPOSE 50051 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["/usr/bin/python3.11", "-m", "recsvc.cli.main", "health", "localhost:50051"]
ENTRYPOINT ["/usr/bin/python3.11", "-m", "recsvc.cli.main"]
CMD ["serve"]
