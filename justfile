# Commands for those who work on Provost. `just` lists them.

default:
    @just --list

# All that must hold before a change lands.
gate:
    bash .ci/run

# The tests, as the README has them.
test:
    cargo test

# Kill fifty runs at once at 200 moments, and compare what is left with what should be. PROVOST_TORTURE_SEED says where to begin.
torture moments="200":
    PROVOST_TORTURE={{moments}} cargo test --test it torture:: -- --nocapture

# Live through seeds of the simulator, each twice. PROVOST_SIM_FROM says where to begin; PROVOST_SIM_SEED=N shows one.
simulate seeds="10000":
    PROVOST_SIM_SEEDS={{seeds}} cargo test --profile simulate --test it sim::whatever -- --nocapture

# Plant each bug, and write down how many seeds it takes to find it.
planted:
    PROVOST_WRITE_DOCS=1 cargo test --profile simulate --test it sim::planted -- --nocapture

# Flip bits of a store, and read it.
flips times="100000":
    PROVOST_FLIPS={{times}} cargo test --release --lib journal::tests::damage -- --nocapture
    PROVOST_BYTES=1-255 cargo test --release --lib journal::tests::exhaustive -- --nocapture

# Let two processes want one store, over and over.
race rounds="1000":
    PROVOST_RACES={{rounds}} cargo test --test it journal::of_two_processes -- --nocapture

# What passing a turnstile costs, beside a semaphore of tokio's.
pass:
    cargo test --release --lib traffic::tests::what_a_pass_costs -- --ignored --nocapture

# A storm of panics, and whether those beside it notice: prints a table, and fails if a promise does not hold.
storm seconds="60" panics="1000":
    PROVOST_STORM_SECONDS={{seconds}} PROVOST_STORM_PANICS={{panics}} cargo bench --bench storm

# The benches; each prints its floor beside it.
bench:
    cargo bench

# Read changed snapshots, and accept or reject them (needs `cargo install cargo-insta`).
snapshots:
    cargo insta test --review

# Write the JSON Schema of network files anew.
schema:
    cargo run -q -- check --print-schema > networks/schema.json

# The independent mocks of a model server that some tests talk to; the second one judges its client.
fixtures:
    npm install --no-save --no-package-lock --prefix . @copilotkit/aimock
    python3 -m venv target/llmock && target/llmock/bin/pip install -q llmock==0.2.2
