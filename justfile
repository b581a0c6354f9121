# The steps of .ci/run, one by one. `just` lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

# The server that the tests have built: `cargo build` alone resolves other features.
server := env("CARGO_TARGET_DIR", "target") / "debug/outlast"

_default:
    @just --list --unsorted

# Build and run the server
serve *args:
    cargo run -- serve {{ args }}

# Format the sources
fmt:
    cargo fmt --all

# Lint
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests of cargo; or those of a name: just test idempotency
test *filter:
    cargo test --workspace --locked {{ if filter == "" { "" } else { "-- " + filter } }}

# One file of the black-box tests: just blackbox docs
blackbox filter:
    cargo test -p outlast --test blackbox --locked -- {{ filter }}

# Bytes that nobody would send, a minute for each target; `just fuzz fold` for one
fuzz *targets:
    fuzz/run {{ targets }}

# Client SDKs against the server; `just clients openai-node` for one suite
clients *suites:
    cargo test --workspace --locked --no-run
    OUTLAST_BIN={{ server }} tests/clients/run {{ suites }}

# Agents in Rust, JavaScript and Python
languages *languages:
    cargo test --workspace --locked --no-run
    OUTLAST_BIN={{ server }} tests/languages/run {{ languages }}

# The documentation of the crates
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# The SDK as it would be published
package:
    cargo package -p outlast-guest --locked --allow-dirty

# Licences and sources of dependencies
deny:
    cargo deny check bans licenses sources

# The book, into target/book
book:
    mdbook build docs

# The load benchmark; `just bench --quick`
bench *args:
    cargo bench -p outlast --bench load -- {{ args }}

# Everything that decides whether a change lands
ci:
    .ci/run
