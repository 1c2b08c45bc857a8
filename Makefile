# make test runs everything on SQLite and on a real PostgreSQL; make check is what CI runs.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test check fmt vet staticcheck tidy tools

build:
	CGO_ENABLED=0 go build -trimpath -o bin/keyturn ./cmd/keyturn

test: tools
	KEYTURN_TEST_POSTGRES=required go test -race -shuffle=on ./...

check: fmt vet staticcheck tidy test
	CGO_ENABLED=0 go build ./...

fmt:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt is owed: $$out"; exit 1; fi

vet:
	go vet ./...

staticcheck:
	go run $(STATICCHECK) ./...

tidy:
	go mod tidy -diff

# tools installs what the tests need and this machine lacks, where it may: PostgreSQL's server for the tests, a C compiler for the race
# detector. Otherwise it says how to get them.
tools:
	@sh ./.ci/tools
