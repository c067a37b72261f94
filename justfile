# Commands for those who work on Provost. `just` lists them.

default:
    @just --list

# All that must hold before a change lands.
gate:
    bash .ci/run

# The tests, as the README has them.
test:
    cargo test

# The benches; each prints its floor beside it.
bench:
    cargo bench

# Read changed snapshots, and accept or reject them (needs `cargo install cargo-insta`).
snapshots:
    cargo insta test --review

# Write the JSON Schema of network files anew.
schema:
    cargo run -q -- check --print-schema > networks/schema.json

# The independent mock of a model server that some tests talk to.
fixtures:
    npm install --no-save --no-package-lock --prefix . @copilotkit/aimock
