# make test runs everything on SQLite and on a real PostgreSQL; make check is what CI runs.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test check soak fuzz fmt vet staticcheck tidy tools

build:
	CGO_ENABLED=0 go build -trimpath -o bin/keyturn ./cmd/keyturn

test: tools
	KEYTURN_TEST_POSTGRES=required go test -race -shuffle=on ./...

# soak runs the tests of faults and abuse in their long forms: about half an hour.
soak: tools
	KEYTURN_TEST_POSTGRES=required KEYTURN_SOAK=1 go test -count=1 -timeout 60m -v -run 'KilledUnderLoad|Misbehaves|Restarted|FailOver|SQLiteLocked|Guessing|IdleConnections|NeverReads' ./cmd/keyturn ./server

# fuzz fuzzes every parser for FUZZTIME each.
FUZZTIME = 30s
fuzz:
	for package in keys server cmd/keyturn; do \
	  for target in $$(sed -nE 's/^func (Fuzz[A-Za-z]+)\(.*/\1/p' $$package/*_test.go); do \
	    go test ./$$package -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) || exit 1; \
	  done; \
	done

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
