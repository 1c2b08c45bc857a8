# make test runs all tests on SQLite and on a real PostgreSQL. CI runs .ci/run.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build build-openssl bench bench-builds bench-growth bench-peers bench-against bench-verify figures profile house test console bench-lists interop interop-keys interop-tools probe-table pages release release-check deploy-check check soak fuzz fmt vet staticcheck tidy tools

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/keyturn ./cmd/keyturn

# build-openssl builds a binary that signs with libcrypto.so.3 of the system, OpenSSL 3. It needs no C compiler, also for other platforms: set
# GOARCH. The binary is dynamic and needs glibc.
build-openssl:
	CGO_ENABLED=0 GOOS=linux go build -tags openssl -trimpath -ldflags "-s -w" -o bin/keyturn-openssl ./cmd/keyturn

# bench prints the figures of docs/performance.md in a few minutes. Pass flags in BENCH, as in BENCH='-grants 0'.
bench: tools build bin/keyturn-bench
	bin/keyturn-bench $(BENCH)

# bench-builds compares refreshes of the build with OpenSSL with those of the usual build.
bench-builds: tools build build-openssl bin/keyturn-bench
	bin/keyturn-bench -builds $(BENCH)

# bench-growth measures databases of 1, 5 and 20 million grants, and extrapolates to 100 million. It needs 20 GB of disk and some minutes.
bench-growth: tools build bin/keyturn-bench
	bin/keyturn-bench -growth $(BENCH)

# bench-peers compares keyturn with other servers, which the module peers builds or starts.
bench-peers: tools build bin/keyturn-bench
	@sh ./.ci/tools peers
	for peer in fosite gooauth2 glewlwyd; do (cd peers && go build -o ../bin/peer-$$peer ./$$peer) || exit 1; done
	bin/keyturn-bench -peers $(BENCH)

# bench-against compares the CPU time of all operations in another build, at the path AGAINST, with this one.
bench-against: tools build bin/keyturn-bench
	bin/keyturn-bench -against '$(or $(AGAINST),$(error pass AGAINST=path))' $(BENCH)

# bench-verify compares the module verify with other verifiers of Go, in one run.
bench-verify:
	cd verify/compare && go test -run '^$$' -bench . -benchtime 2s

# figures measures as bench, bench-builds, bench-growth and bench-peers do, and writes the figures into docs/performance.md. It wants a
# quiet machine.
figures:
	$(MAKE) bench BENCH='$(BENCH) -page docs/performance.md'
	$(MAKE) bench-builds BENCH='$(BENCH) -page docs/performance.md'
	$(MAKE) bench-growth BENCH='$(BENCH) -page docs/performance.md'
	$(MAKE) bench-peers BENCH='$(BENCH) -page docs/performance.md'

.PHONY: bin/keyturn-bench
bin/keyturn-bench:
	go build -o $@ ./cmd/keyturn-bench

# profile writes CPU and allocation profiles of refresh, introspection and login into bin/, for go tool pprof.
profile: tools
	mkdir -p bin
	for operation in Refresh IntrospectionSeen Login; do \
	  KEYTURN_TEST_POSTGRES=required go test ./server -run '^$$' -bench "^Benchmark$$operation$$" -benchtime 2s -o bin/server.test \
	    -cpuprofile bin/$$operation.cpu.pprof -memprofile bin/$$operation.mem.pprof || exit 1; \
	done

# house prints the size and shape of the code. With HOUSE=-time it also prints how long the tests take.
house:
	go run ./tools/house $(HOUSE)

# test runs all tests in their short form, on both databases, with the race detector. SQLite is C that was translated to
# Go: the detector need not check its pointers.
test: tools
	KEYTURN_TEST_POSTGRES=required go test -race -shuffle=on -timeout 20m -gcflags=modernc.org/...=-d=checkptr=0 ./...
	cd verify && go test -race -shuffle=on ./...
	$(MAKE) test-openssl

# test-openssl runs the tests of the keys, and of the main job, in the build that signs with OpenSSL.
.PHONY: test-openssl
test-openssl: tools
	CGO_ENABLED=0 GOARCH=arm64 go build -tags openssl ./keys/internal/openssl
	KEYTURN_TEST_POSTGRES=required go test -race -tags openssl -shuffle=on -timeout 20m -gcflags=modernc.org/...=-d=checkptr=0 ./keys/...
	CGO_ENABLED=0 KEYTURN_TEST_POSTGRES=required go test -tags openssl -shuffle=on -timeout 10m ./keys/internal/openssl
	CGO_ENABLED=0 KEYTURN_TEST_POSTGRES=required go test -tags openssl -timeout 10m ./cmd/keyturn \
	  -run 'TestScripts/.*/(main_job|signer|keys|leak|rewrap|restore)$$'

# test-postgres runs the tests of storage and server on other versions of PostgreSQL. CI runs those of storage.
POSTGRES = 13 18
PACKAGES = ./storage ./server
.PHONY: test-postgres
test-postgres: tools
	@sh ./.ci/tools postgres
	for version in $(POSTGRES); do \
	  folder=$$(sh ./.ci/postgres $$version) && $$folder/postgres --version && PATH=$$folder:$$PATH KEYTURN_TEST_POSTGRES=required \
	    go test -count=1 -shuffle=on -timeout 20m $(PACKAGES) || exit 1; \
	done

# release builds static binaries into dist/, with version, commit and date, checksums and bills of materials.
VERSION = $(shell git describe --tags --always --dirty)
PLATFORMS = linux/amd64 linux/arm64 darwin/arm64
release:
	sh ./.ci/release $(VERSION) $(PLATFORMS)

# release-check builds a release twice, from two clones, and compares the bytes.
release-check:
	@sh ./.ci/tools release
	go test -tags deploy -count=1 -timeout 10m -run Release ./deploy

# deploy-check checks the files of deploy/ with Prometheus, systemd and the types of Kubernetes.
deploy-check:
	@sh ./.ci/tools deploy
	go test -tags deploy -count=1 -timeout 10m -skip 'Release|^TestRun' ./deploy

# upgrade goes from the last release to this version, on both databases. It needs the history of the sources.
.PHONY: upgrade
upgrade: tools
	@rm -f bin/deploy/upgrades.md
	KEYTURN_TEST_POSTGRES=required go test -tags deploy -count=1 -timeout 10m -run '^TestRunUpgrade' ./deploy
	@cat bin/deploy/upgrades.md

# deploy-run runs what deploy/ has with real engines: podman, systemd, Patroni. It prints what it measured. The first run makes a Debian to
# build images from. SKIP is a pattern of tests to leave out.
.PHONY: deploy-run
deploy-run: tools
	@sh ./.ci/tools deploy-run
	@sh ./.ci/engines
	@mkdir -p bin/deploy && rm -f bin/deploy/*.md
	KEYTURN_TEST_POSTGRES=required go test -tags deploy -count=1 -timeout 25m -run '^TestRun' -skip '$(SKIP)' ./deploy
	@cat bin/deploy/*.md

# interop runs examples/, with third-party software, against a real keyturn. It prints how long each resource server trusted a revoked key when
# it caches the JWKS for three seconds.
interop: interop-tools
	KEYTURN_TEST_POSTGRES=required go test -tags interop -count=1 -parallel 12 -timeout 15m ./examples
	@cat bin/interop/in-haste.txt

# interop-keys measures the same with unchanged files, which cache the JWKS for five minutes. It takes a quarter of an hour.
interop-keys: interop-tools
	KEYTURN_TEST_POSTGRES=required go test -tags interop -count=1 -parallel 12 -timeout 45m -run TestResourceServers ./examples -as-shipped
	@cat bin/interop/as-shipped.txt

# probe-table probes the resource servers of examples/ and three others, and prints the table of docs/probe.md.
probe-table: interop-tools
	KEYTURN_TEST_POSTGRES=required go test -tags interop -count=1 -parallel 12 -timeout 10m -run TestProbes -v ./examples

# console does every job of the console in Chromium, with scripts and without, looks at its pages with axe-core, and writes pictures of
# them into bin/console/.
console: tools
	@sh ./.ci/tools console
	@mkdir -p bin/console bin/console-tools
	@cp console/testdata/browser/package.json console/testdata/browser/package-lock.json bin/console-tools/
	npm ci --prefix bin/console-tools --no-audit --no-fund
	KEYTURN_TEST_POSTGRES=required go test -tags browser -count=1 -timeout 15m -run TestBrowser ./console

# bench-lists measures a page of each list of the admin API with a million rows.
bench-lists: tools
	KEYTURN_TEST_POSTGRES=required go test ./console -run '^$$' -bench Lists -benchtime 300x -timeout 30m

interop-tools:
	@sh ./.ci/tools interop
	@mkdir -p bin/interop
	@rm -f bin/interop/*.txt
	@cp examples/package.json examples/package-lock.json bin/interop/
	npm ci --prefix bin/interop --no-audit --no-fund
	GOBIN=$(CURDIR)/bin/interop go install github.com/oauth2-proxy/oauth2-proxy/v7@v7.15.6

# pages generates docs/verify from examples/, and docs/configuration.md from the settings.
pages:
	go test ./examples -run TestPages -update
	go test ./config -run TestManual -update
	go test ./cmd/keyturn -run TestConfigurationPage -update

# soak runs the long forms of the fault and abuse tests. It takes hours.
soak: tools
	KEYTURN_TEST_POSTGRES=required KEYTURN_SOAK=1 go test -count=1 -timeout 60m -v -run 'KilledUnderLoad|RewrapKilled|Misbehaves|Restarted|FailOver|SQLiteLocked|Guessing|IdleConnections|NeverReads|StayFlat|Rush|LargeTables|PgBouncerUnderLoad|CapOfOpenGrants|LifeModel|OwnTokens|StatusModel|IndexesAreApart' ./cmd/keyturn ./keys ./server ./storage
	CGO_ENABLED=0 KEYTURN_SOAK=1 go test -tags openssl -count=1 -timeout 90m -v -run NothingIsLeft ./keys/internal/openssl
	$(MAKE) test-postgres POSTGRES="13 15 17 18"
	@sh ./.ci/tools deploy-run
	@sh ./.ci/engines
	@mkdir -p bin/deploy && rm -f bin/deploy/*.md
	KEYTURN_TEST_POSTGRES=required go test -tags deploy -count=5 -timeout 90m -v -run 'TestRunPatroni|TestRunCompose' ./deploy
	@cat bin/deploy/*.md

# fuzz fuzzes every parser for FUZZTIME each.
FUZZTIME = 30s
fuzz:
	for package in keys passwords server cmd/keyturn storage/internal/engine verify; do \
	  for target in $$(sed -nE 's/^func (Fuzz[A-Za-z]+)\(.*/\1/p' $$package/*_test.go); do \
	    (cd $$package && go test . -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME)) || exit 1; \
	  done; \
	done

check: fmt compile vet staticcheck tidy test

.PHONY: compile
compile:
	CGO_ENABLED=0 go build ./...

fmt:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "run gofmt on: $$out"; exit 1; fi

vet:
	go vet ./...
	go vet -tags interop ./examples
	go vet -tags browser ./console
	go vet -tags deploy ./deploy
	go vet -tags openssl ./keys/...
	cd verify && go vet ./...
	cd verify/compare && go vet ./...
	cd peers && go vet ./...

staticcheck:
	go run $(STATICCHECK) -tags interop,deploy,browser ./...
	go run $(STATICCHECK) -tags openssl ./keys/...
	cd verify && go run $(STATICCHECK) ./...
	cd verify/compare && go run $(STATICCHECK) ./...
	cd peers && go run $(STATICCHECK) ./...

tidy:
	go mod tidy -diff
	cd verify && go mod tidy -diff
	cd peers && go mod tidy -diff
	cd verify/compare && go mod tidy -diff

# tools installs the programs that the tests need and this machine lacks: a PostgreSQL server, PgBouncer, shells, and a C compiler for the
# race detector. Without the permission to install, it prints how to get them.
tools:
	@sh ./.ci/tools
