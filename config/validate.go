package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Validate checks everything but what needs both servers to be given, so that it
// holds for every verb. It reads TLS files and connects to nothing. The error holds
// all problems at once; each names key, value and what would be right.
func (c Config) Validate() error {
	var problems []error
	problems = append(problems, c.checkAddresses()...)
	problems = append(problems, c.checkDatabases()...)
	problems = append(problems, c.checkRanges()...)
	for _, side := range c.sides() {
		_, more := side.server.TLS.settings()
		problems = append(problems, prefixed(side.name, more)...)
	}
	problems = append(problems, c.checkListenTLS()...)
	problems = append(problems, c.checkFleet()...)
	_, more := c.Proxy.Trusted()
	problems = append(problems, more...)
	problems = append(problems, c.Proxy.checkIdentities()...)
	_, _, more = c.Sync.Windows()
	problems = append(problems, more...)
	if _, err := zoneOf("cutover.time_zone", c.Cutover.TimeZone); err != nil {
		problems = append(problems, err)
	}
	_, more = c.HookList()
	problems = append(problems, more...)
	if c.Traces.URL != "" {
		if _, err := c.Traces.Endpoint(); err != nil {
			problems = append(problems, fmt.Errorf("traces.%w", err))
		}
	}
	if c.State == "" {
		problems = append(problems, errors.New("state: missing: give a file name, such as crossfade.state"))
	}
	return errors.Join(append(problems, c.checkWords()...)...)
}

// ValidateServers checks what the verbs need that speak to the servers: both
// present, well formed, and not the same, nor the sidecar itself. It says nothing
// again that Validate says; it reads password files and connects to nothing.
func (c Config) ValidateServers() error {
	problems := c.checkCluster()
	endpoints := map[string]Endpoint{}
	for _, side := range c.sides() {
		e, more := side.server.address()
		problems = append(problems, prefixed(side.name, more)...)
		endpoints[side.name] = e
		if e.Address == "" {
			continue
		}
		listeners, _ := c.Listeners()
		for _, l := range listeners {
			if e.at(l.Network, l.Address) {
				problems = append(problems, fmt.Errorf("listen: %q is the address of the %s: give clients another address", l.Address, side.name))
			}
		}
	}
	if len(c.Proxy.checkIdentities()) == 0 { // Validate says those
		_, more := c.Proxy.Identities()
		problems = append(problems, more...)
	}
	source, target := endpoints["source"], endpoints["target"]
	if source.Address != "" && source.same(target) {
		problems = append(problems, fmt.Errorf("target.url: %q is the source as well (%q): give the server to move to",
			c.Target.URL, c.Source.URL))
	}
	return errors.Join(problems...)
}

type side struct {
	name   string
	server Server
}

func (c Config) sides() []side {
	return []side{{"source", c.Source}, {"target", c.Target}}
}

func prefixed(name string, problems []error) []error {
	var named []error
	for _, problem := range problems {
		named = append(named, fmt.Errorf("%s.%w", name, problem))
	}
	return named
}

func (c Config) checkAddresses() []error {
	listeners, problems := c.Listeners()
	adminNetwork, admin, secure, adminErr := SplitDoor(c.Admin.Address)
	switch {
	case adminErr != nil:
		problems = append(problems, fmt.Errorf("admin.address: %w", adminErr))
	case slices.ContainsFunc(listeners, func(l Listen) bool { return samePlace(l.Network, l.Address, adminNetwork, admin) }):
		problems = append(problems, fmt.Errorf("admin.address: %q is the address for clients (listen) as well: give another", c.Admin.Address))
	case adminNetwork == "tcp" && !loopback(admin) && c.Admin.Token == "" && (!secure || !c.Admin.byCertificate()):
		problems = append(problems, fmt.Errorf("admin.token: missing, and admin.address %q can be reached from other machines: "+
			"set CROSSFADE_ADMIN_TOKEN or admin.token_file, or use unix:PATH or 127.0.0.1", c.Admin.Address))
	}
	problems = append(problems, c.Admin.checkTLS()...)
	return append(problems, c.checkDoor(listeners)...)
}

// checkDoor is for browsers, and for the tokens.
func (c Config) checkDoor(listeners []Listen) (problems []error) {
	a := c.Admin
	if a.Web != "" {
		network, web, secure, err := SplitDoor(a.Web)
		switch adminNetwork, address, _, _ := SplitDoor(a.Address); {
		case err != nil:
			problems = append(problems, fmt.Errorf("admin.web: %w", err))
		case network != "tcp":
			problems = append(problems, fmt.Errorf("admin.web: %q is no place that a browser reaches: write HOST:PORT", a.Web))
		case samePlace(network, web, adminNetwork, address):
			problems = append(problems, fmt.Errorf("admin.web: %q is admin.address as well, where the dashboard is in any case: leave it out, or give another", a.Web))
		case slices.ContainsFunc(listeners, func(l Listen) bool { return samePlace(l.Network, l.Address, network, web) }):
			problems = append(problems, fmt.Errorf("admin.web: %q is the address for clients (listen) as well: give another", a.Web))
		case !loopback(web) && a.Token == "" && (!secure || !a.byCertificate()):
			problems = append(problems, fmt.Errorf("admin.token: missing, and admin.web %q can be reached from other machines: "+
				"set CROSSFADE_ADMIN_TOKEN or admin.token_file, or use 127.0.0.1", a.Web))
		}
	}
	for _, t := range []struct {
		name  string
		token Secret
	}{{"admin.token", a.Token}, {"admin.view_token", a.ViewToken}} {
		if strings.ContainsFunc(t.token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			problems = append(problems, fmt.Errorf("%s: holds a space, a control or a non-ASCII character: use visible ASCII only", t.name))
		}
	}
	switch {
	case a.ViewToken == "":
	case a.Token == "":
		problems = append(problems, errors.New("admin.view_token: without admin.token everybody may do all: set that too"))
	case a.Token == a.ViewToken:
		problems = append(problems, errors.New("admin.view_token: is admin.token as well: who may only look needs another one"))
	}
	return problems
}

func (c Config) checkListenTLS() []error {
	listeners, _ := c.Listeners()
	wanted := slices.ContainsFunc(listeners, func(l Listen) bool { return l.TLS })
	switch t := c.Proxy.TLS; {
	case wanted:
		_, problems := t.open(ofListen)
		return prefixed("proxy.tls", problems)
	case t.CertFile != "" || t.KeyFile != "" || t.ClientCAFile != "":
		return []error{errors.New("proxy.tls: files without TLS: begin an address of listen with tls:// or remove them")}
	}
	return nil
}

// checkWords is for keys that take one of a few words; those that hang on others are
// checked with these.
func (c Config) checkWords() []error {
	var problems []error
	for _, set := range []struct{ key, value string }{
		{"role", c.Role},
		{"fleet.store", c.Fleet.Store},
		{"proxy.upstream", c.Proxy.Upstream},
		{"sync.feed", c.Sync.Feed},
		{"sync.field_expiries", c.Sync.FieldExpiries},
		{"verify.gate", c.Verify.Gate},
		{"log.level", c.Log.Level},
		{"log.format", c.Log.Format},
	} {
		if !mayBe(set.key, set.value) {
			problems = append(problems, fmt.Errorf("%s: %q is unknown: give %s", set.key, set.value, oneOf(set.key)))
		}
	}
	return problems
}

func (c Config) checkRanges() []error {
	var problems []error
	number := func(key string, value, low, high int) {
		if value < low || value > high {
			problems = append(problems, fmt.Errorf("%s: %d is out of range: give %d to %d", key, value, low, high))
		}
	}
	duration := func(key string, value, low, high time.Duration) {
		if value < low || value > high {
			problems = append(problems, fmt.Errorf("%s: %v is out of range: give %s to %s", key, value, short(low), short(high)))
		}
	}
	// patience is a duration that may be 0, for ever, and is none that nobody keeps.
	patience := func(key string, value time.Duration) {
		const low, high = 10 * time.Millisecond, 24 * time.Hour
		if value != 0 && (value < low || value > high) {
			problems = append(problems, fmt.Errorf("%s: %v is out of range: give %s to %s, or 0s for no limit", key, value, short(low), short(high)))
		}
	}
	number("proxy.max_clients", c.Proxy.MaxClients, 1, 1_000_000)
	number("proxy.loops", c.Proxy.Loops, 0, 64)
	number("proxy.output_limit", c.Proxy.OutputLimit, 1<<20, 4<<30)
	number("proxy.slow_log_entries", c.Proxy.SlowLogEntries, 0, 100_000)
	duration("proxy.slow_log_slower_than", c.Proxy.SlowLogSlowerThan, -time.Hour, time.Hour)
	patience("proxy.output_timeout", c.Proxy.OutputTimeout)
	number("proxy.query_limit", c.Proxy.QueryLimit, 1<<20, 1<<30)
	number("proxy.max_bulk", c.Proxy.MaxBulk, 1<<20, 1<<40)
	if c.Proxy.MaxMemory != 0 {
		number("proxy.max_memory", c.Proxy.MaxMemory, 1<<20, 1<<50)
	}
	duration("proxy.dial_timeout", c.Proxy.DialTimeout, 10*time.Millisecond, 5*time.Minute)
	patience("proxy.upstream_timeout", c.Proxy.UpstreamTimeout)
	number("proxy.script_cache", c.Proxy.ScriptCache, 1, 10_000_000)
	duration("proxy.shutdown_timeout", c.Proxy.ShutdownTimeout, 0, time.Hour)
	number("sync.workers", c.Sync.Workers, 1, 256)
	number("sync.batch", c.Sync.Batch, 0, 10_000)
	number("sync.scan_count", c.Sync.ScanCount, 0, 100_000)
	duration("sync.max_latency", c.Sync.MaxLatency, 0, time.Minute)
	number("sync.dirty_limit", c.Sync.DirtyLimit, 1, 1_000_000_000)
	if c.Sync.KeysPerSecond != 0 {
		number("sync.keys_per_second", c.Sync.KeysPerSecond, 1, 1_000_000_000)
	}
	if c.Sync.BytesPerSecond != 0 {
		number("sync.bytes_per_second", c.Sync.BytesPerSecond, 1, 1<<50)
	}
	duration("sync.heartbeat", c.Sync.Heartbeat, 10*time.Millisecond, time.Minute)
	number("verify.rate", c.Verify.Rate, 0, 10_000_000)
	number("verify.byte_rate", c.Verify.ByteRate, 0, 1<<40)
	duration("verify.interval", c.Verify.Interval, 100*time.Millisecond, 30*24*time.Hour)
	number("verify.parallel", c.Verify.Parallel, 1, 64)
	duration("verify.max_age", c.Verify.MaxAge, time.Second, 365*24*time.Hour)
	number("shadow.percent", c.Shadow.Percent, 0, 100)
	number("shadow.clean_reads", c.Shadow.CleanReads, 0, 1<<50)
	duration("cutover.max_stall", c.Cutover.MaxStall, time.Millisecond, 5*time.Minute)
	duration("cutover.max_lag", c.Cutover.MaxLag, time.Millisecond, time.Minute)
	duration("cutover.wait_ready", c.Cutover.WaitReady, 0, 24*time.Hour)
	duration("cutover.timeout", c.Cutover.Timeout, 0, 30*24*time.Hour)
	number("cutover.retries", c.Cutover.Retries, 0, 1000)
	duration("cutover.retry_wait", c.Cutover.RetryWait, 10*time.Millisecond, time.Hour)
	number("cutover.check_sample", c.Cutover.CheckSample, 0, 1_000_000)
	duration("log.status_interval", c.Log.StatusInterval, 100*time.Millisecond, time.Hour)
	return problems
}

// short writes 5m for 5m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
