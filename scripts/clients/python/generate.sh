#!/bin/sh
# Generates the Python of proto/ into gen/, with Debian's protobuf-compiler and protobuf-compiler-grpc.
set -eu
cd "$(dirname "$0")"
mkdir -p gen
protoc -I ../../../proto --python_out=gen --grpc_out=gen --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" \
  handoff/v1/handoff_service.proto handoff/v1/reason.proto handoff/v1/rule.proto \
  handoff/server1/v1/session_service.proto handoff/server2/v1/invoice_service.proto
protoc -I ../../../proto --python_out=gen google/rpc/status.proto google/rpc/error_details.proto
