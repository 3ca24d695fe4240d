# `make demo` shows what Glovebox does, `make test` shows that it does. Both install what they need.
.PHONY: demo test bench fuzz fmt lint

demo:
	@tests/demo/run

test:
	@.ci/check

bench:
	cargo bench --locked --bench restore
	cargo bench --locked --bench backup

fuzz:
	FUZZ_SECONDS=600 cargo test --locked --test integration hostile_mutations

fmt:
	cargo fmt

lint:
	cargo clippy --locked --all-targets -- -D warnings
