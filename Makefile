# Needs Go, git and make; what else is missing is installed (scripts/deps.sh,
# Debian and its kin) or built into bin/tools.

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO         ?= go
PARALLEL   ?= 3
TIMEOUT    ?= 30m
CHAOS_TIME ?= 10m
CHAOS_SEED ?= 0
FUZZTIME   ?= 1h
QUEUE_SWITCHES ?= 200
CLUSTER_RUNS ?= 10
BENCH      ?= all
LINT       := v2.15.0
VULNCHECK  := v1.9.0
AXE        := 4.14.1
GOLANGCI   := bin/tools/golangci-lint

.DEFAULT_GOAL := build
.PHONY: build test race peers fuzz lint fmt fmt-check vet demo bench bench-hol bench-shadow bench-pages bench-bulk bench-fleet bench-sync switches versions suites e2e-long queues rollbacks clusters big failpoints sentinels model chaos dashboard-test release release-check licences vulns reference manifests alerts clean help

build: ## build the static binary bin/crossfade
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/crossfade ./cmd/crossfade

release: ## make bin/release: binaries, Debian packages, bills of materials, checksums
	$(GO) run ./scripts/release -go $(GO) -version $(VERSION) -out bin/release

release-check: ## build a release twice, in folders and with caches of their own, and compare
	RELEASE_COLD=1 $(GO) test ./scripts/release -run '^TestReproducible$$' -count 1 -v -timeout 1h

licences: ## list the licences of all that is in the binary; one that nobody has looked at is an error
	$(GO) run ./scripts/release -licences -version $(VERSION)

vulns: ## ask Go's database for vulnerabilities in what the program calls; needs vuln.go.dev
	$(GO) run golang.org/x/vuln/cmd/govulncheck@$(VULNCHECK) ./cmd/crossfade

reference: ## write docs/reference.md and docs/openapi.json anew
	$(GO) test ./cmd/crossfade -run '^TestReference$$' -count 1 -args -update

manifests: ## check deploy/kubernetes by the types of Kubernetes itself; needs kubectl
	@for folder in base example; do \
		kubectl kustomize deploy/kubernetes/$$folder | $(GO) run -C scripts/manifests . || exit 1; \
	done

alerts: ## have every alert of deploy/prometheus fire by its trouble, against real servers, by Prometheus' own engine
	scripts/deps.sh
	$(GO) test -C scripts/alerts -timeout $(TIMEOUT) ./...

test: ## run all tests, against real servers
	scripts/deps.sh
	GO="$(GO)" scripts/tests.sh -p $(PARALLEL) -timeout $(TIMEOUT) ./...
	GO="$(GO)" scripts/tests.sh -timeout $(TIMEOUT) ./proxy -args -upstream pinned -loops 3
	$(GO) test ./proxy -run '^$$' -bench '^BenchmarkShared$$' -benchtime 20000x -timeout $(TIMEOUT)

race: ## run the tests under the race detector, the long ones shortened
	scripts/deps.sh race
	CGO_ENABLED=1 GO="$(GO)" scripts/tests.sh -race -short -p $(PARALLEL) -timeout $(TIMEOUT) ./...

e2e-long: ## run the long end-to-end tests: a million keys, 200 switches, 100 kills, 1300 random runs
	scripts/deps.sh
	E2E_LONG=1 E2E_SWITCHES=200 E2E_KILLS=100 E2E_RANDOM=1000 \
		$(GO) test ./e2e -run 'TestMillion|TestSwitches|TestKilledAtRandom|TestRandomCommands|TestVerifyUnderWrites|TestBudgetThatCannotBeMet' -count 1 -v -timeout 2h
	MIX_RUNS=300 $(GO) test ./sync/mirror -run '^TestMix$$' -count 1 -v -timeout 2h

peers: ## run the cases in which others lose changes at full length, 8 minutes
	scripts/deps.sh
	E2E_PEERS=full $(GO) test ./e2e -run '^TestPeers$$' -count 1 -v -timeout 1h

queues: ## 200 switches with asynq and with BullMQ as the load, each job counted; QUEUE_SWITCHES
	scripts/deps.sh node
	@mkdir -p bin/bullmq && cp e2e/testdata/bullmq/* bin/bullmq/
	cd bin/bullmq && npm install --ignore-scripts --no-audit --no-fund --no-package-lock
	E2E_QUEUES=$(QUEUE_SWITCHES) E2E_BULLMQ=$(CURDIR)/bin/bullmq $(GO) test ./e2e -run '^Test(Asynq|BullMQ)AcrossSwitches$$' -count 1 -v -timeout 2h

rollbacks: ## 15 million writes on the target between three cutovers and rollbacks
	scripts/deps.sh
	E2E_VOLUME=5000000 $(GO) test ./e2e -run '^TestRollbackAfterVolume$$' -count 1 -v -timeout 2h

clusters: ## move into a Redis Cluster whose masters die and whose slots move, over and over; CLUSTER_RUNS
	scripts/deps.sh
	$(GO) test ./internal/fleet ./sync/conn ./sync/mirror ./sync/verify -run 'Slot|Scan|Fails|Failover|Master|Cluster' -count $(CLUSTER_RUNS) -timeout 4h
	E2E_CLUSTER=all $(GO) test ./e2e -run '^TestCluster' -count $(CLUSTER_RUNS) -v -timeout 4h

big: ## move a list and a hash of 1 GB that change all the time, and 20 million keys (4 GB of memory)
	scripts/deps.sh
	E2E_BIG=1 $(GO) test ./e2e -run 'TestCutoverWithABigList|TestSwitchesWithABigHash|TestHotGigabyte|TestManyKeys' -count 1 -v -timeout 1h

dashboard-test: ## drive a whole migration from the dashboard in Chromium, and check it with axe-core; E2E_PICTURES: a folder for pictures
	scripts/deps.sh browser node
	npm install --prefix bin/axe --ignore-scripts --no-audit --no-fund --no-package-lock axe-core@$(AXE)
	E2E_AXE=$(CURDIR)/bin/axe/node_modules/axe-core/axe.min.js \
		$(GO) test ./e2e -run '^TestDashboard' -count 1 -v -timeout 20m

model: ## try every interleaving of the protocol's model within wide bounds
	$(GO) test ./migration/model -run '^TestTheProtocolHolds$$' -count 1 -v -timeout 2h -args -deep

sentinels: ## sentinels on either side and both, with failovers at every moment, 5 minutes
	scripts/deps.sh
	E2E_SENTINELS=all $(GO) test ./e2e -run 'Sentinels|FailsOver|Failover' -count 1 -parallel 4 -v -timeout 1h

failpoints: ## every fault at every step of a cutover, of a rollback and of their recoveries
	scripts/deps.sh
	E2E_FAILPOINTS=all $(GO) test ./e2e -run '^Test(Failpoints|FailpointsOfRecoveries|ASlowCoordinatorWakes|TwoCoordinatorsAtOnce)$$' -count 1 -parallel 6 -v -timeout 4h

fuzz: ## fuzz the parsers and the rewriting, FUZZTIME (1h) each, one after another
	@for target in internal/resp:FuzzRequests internal/resp:FuzzWellFormed internal/resp:FuzzFramer sync/pipe:FuzzSameElements proxy:FuzzRewrite proxy:FuzzChannel proxy:FuzzCursor proxy:FuzzHeaders admin:FuzzDoor internal/keyspec:FuzzKeys internal/prefix:FuzzStripper internal/prefix:FuzzAppend; do \
		$(GO) test ./$${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZTIME) || exit 1; \
	done

lint: ## run golangci-lint; it is built once when there is none of its major version
	@tool=$$(command -v golangci-lint || true); \
	if [ -z "$$tool" ] || ! "$$tool" version 2>/dev/null | grep -Eq 'version v?2\.'; then \
		tool=$(GOLANGCI); \
		if ! "$$tool" version 2>/dev/null | grep -Eq 'version v?$(LINT:v%=%)( |$$)'; then \
			echo "building golangci-lint $(LINT) into bin/tools: this takes some minutes, once"; \
			GOBIN="$(CURDIR)/bin/tools" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT) || exit 1; \
		fi; \
	fi; \
	echo "$$tool run"; "$$tool" run --timeout 15m && \
	echo "$$tool run --build-tags failpoints" && "$$tool" run --timeout 15m --build-tags failpoints

fmt: ## format the sources
	gofmt -w $$(git ls-files '*.go')

fmt-check: ## fail when a source is not formatted
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi

chaos: ## cut, tear and stall connections on all sides, each way for CHAOS_TIME (CHAOS_SEED repeats one)
	scripts/deps.sh
	$(GO) test ./proxy -run '^TestChaos$$' -count 1 -v -timeout 24h -args -chaos $(CHAOS_TIME) -seed $(CHAOS_SEED)
	E2E_CHAOS=$(CHAOS_TIME) E2E_SEED=$(CHAOS_SEED) $(GO) test ./e2e -run '^TestChaosAcrossSwitches$$' -count 1 -v -timeout 24h

vet: ## run go vet, with and without the failpoints
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./...

demo: ## move two real servers there, back and there again under load, and check
	scripts/deps.sh
	@$(MAKE) --no-print-directory build
	bin/crossfade demo

bench: ## measure the ways to a server, 20 minutes; BENCH=quick: 3, or cells by name
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -cells $(BENCH) $(if $(filter all,$(BENCH)),-out bench)

bench-hol: ## measure what large values and blocked clients do to small requests
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -hol -check

bench-shadow: ## measure what shadow reads cost the clients, 3 minutes
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -shadow -check

bench-pages: ## measure what 100 open dashboards cost the clients, 2 minutes
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -pages 100 -check

bench-fleet: ## measure what 10, 100 and 1000 members of a fleet cost, and a switch with them
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -fleet 10,100,1000

bench-bulk: ## measure what a full copy does to clients, 5 minutes
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -bulk -check

bench-sync: ## measure how fast a full copy is, and how late a change arrives; REDISSHAKE: its binary
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -sync -check
	$(GO) run ./bench -crossfade bin/crossfade -lag -check

switches: ## make 200 switches under 10 000 operations/s, check every one, and compare with promotions, 8 minutes
	scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./bench -crossfade bin/crossfade -switches 200 -out bench -check

versions: ## run what hangs on the server against other versions: CROSSFADE_SERVERS, or Debian's
	scripts/deps.sh servers
	@mkdir -p bin
	GO="$(GO)" scripts/versions.sh

suites: ## run the suites of Redis and its clients through the proxy, and compare
	@$(MAKE) --no-print-directory run-suites

suite-%: ## run one of them: redis, goredis, noderedis, hiredis, redispy
	@$(MAKE) --no-print-directory run-suites SUITE=$*

.PHONY: run-suites
run-suites:
	scripts/deps.sh suites
	@$(MAKE) --no-print-directory build
	$(GO) run ./suites -crossfade bin/crossfade $(SUITE)

clean: ## remove what was built
	rm -rf bin

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
