#!/bin/sh
# Writes the Go of the vectors' protos here, and their descriptor set beside the vectors.
set -eu
cd "$(git rev-parse --show-toplevel)"
vectors=shared/handoff/testdata
buf() {
	command=$1
	shift
	go tool -modfile=scripts/tools/go.mod buf "$command" \
		--config '{"version": "v2", "modules": [{"path": "proto"}, {"path": "'$vectors'/proto"}]}' \
		--path $vectors/proto/handoff "$@"
}
buf generate --template '{"version": "v2", "plugins": [{"local": ["go", "tool", "protoc-gen-go"], "out": ".", "opt": "module=github.com/handoff-auth/handoff"}]}'
buf build --exclude-source-info --output $vectors/operations.binpb
