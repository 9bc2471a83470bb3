package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	long := "unix:" + strings.Repeat("x", 108)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		change func(c *Config)
		want   string // the whole error, or its end after …
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Listen = []string{":0"} }, ""},
		{func(c *Config) { c.Listen = []string{"unix:///run/x.sock"} }, ""},
		{func(c *Config) { c.Admin.Address = "127.0.0.1:1" }, ""},
		{func(c *Config) { c.Admin.Address = "[::1]:1" }, ""},
		{func(c *Config) { c.Admin.Address, c.Admin.Token = "0.0.0.0:1", "word" }, ""},
		{func(c *Config) { c.Databases = map[int]Place{0: {DB: 3}, 3: {}} }, ""},
		{func(c *Config) { c.Databases = map[int]Place{0: {Prefix: "c0:"}, 3: {Prefix: "{c3}:"}, 4: {DB: 1}} }, ""},

		{func(c *Config) {
			c.Listen = []string{"127.0.0.1:6380", "[::1]:6380", "unix:/s?mode=0660"}
		}, ""},
		{func(c *Config) { c.Proxy.TLS.CertFile = "c.pem" }, "proxy.tls: files without TLS"},
		{func(c *Config) { c.Proxy.ProxyProtocol = "v2" }, `proxy.proxy_protocol: "v2" is unknown`},
		{func(c *Config) { c.Proxy.ProxyProtocol = "optional" }, "proxy.proxy_protocol_from: missing"},
		{func(c *Config) { c.Proxy.ProxyProtocolFrom = []string{"unix"} }, "of no use with proxy.proxy_protocol: off"},
		{func(c *Config) {
			c.Proxy.ProxyProtocol, c.Proxy.ProxyProtocolFrom = "required", []string{"10.0.0.0/8", "::1", "unix"}
		}, ""},
		{func(c *Config) {
			c.Proxy.ProxyProtocol, c.Proxy.ProxyProtocolFrom = "required", []string{"10.0.0.0/33"}
		}, `"10.0.0.0/33" is no network`},
		{func(c *Config) { c.Listen = []string{"127.0.0.1:0", "127.0.0.1:0"} }, ""},
		{func(c *Config) { c.Role, c.Listen = "sync", []string{":6380"} }, "listen: with the role sync nobody is served: leave it out, or give the role full"},
		{func(c *Config) { c.Listen = nil }, "listen: missing: write HOST:PORT or unix:PATH"},
		{func(c *Config) { c.Listen = []string{""} }, "listen: missing: write HOST:PORT or unix:PATH"},
		{func(c *Config) { c.Listen = []string{"h:1", "tls://h:1"} }, `listen: "h:1" and "tls://h:1" are one address: keep one`},
		{func(c *Config) { c.Listen = []string{"tls://unix:/s"} }, `"tls://unix:/s": TLS is for HOST:PORT only`},
		{func(c *Config) { c.Listen = []string{"unix:/s?mode=rw"} }, `has the mode "rw": give an octal one`},
		{func(c *Config) { c.Listen = []string{"unix:/s?mode=1777"} }, `has the mode "1777": give an octal one`},
		{func(c *Config) { c.Listen = []string{"6380"} }, `listen: "6380" is not an address: write HOST:PORT`},
		{func(c *Config) { c.Listen = []string{"::1:6380"} }, `listen: "::1:6380" is not an address`},
		{func(c *Config) { c.Listen = []string{"h:x"} }, `listen: "h:x" has the port "x": give a number from 0 to 65535`},
		{func(c *Config) { c.Listen = []string{"redis://h:1"} }, `listen: "redis://h:1" is not an address`},
		{func(c *Config) { c.Listen = []string{long} }, "has 108 bytes: give one of at most 107"},
		{func(c *Config) { c.Admin.Address = "unix:" }, "admin.address: no path after unix:"},
		{func(c *Config) { c.Admin.Address = ":9000" }, `admin.token: missing, and admin.address ":9000" can be reached`},
		{func(c *Config) { c.Admin.Address = "10.0.0.1:9000" }, "set CROSSFADE_ADMIN_TOKEN"},
		{func(c *Config) { c.Admin.Address = "localhost:6380" }, "is the address for clients (listen) as well"},
		{func(c *Config) { c.Admin.Token = "hid den" }, "admin.token: holds a space"},
		{func(c *Config) { c.Admin.Web = "127.0.0.1:6381" }, ""},
		{func(c *Config) { c.Admin.Web, c.Admin.Token, c.Admin.ViewToken = ":6381", "all", "some" }, ""},
		{func(c *Config) { c.Admin.Web = ":6381" }, `admin.token: missing, and admin.web ":6381" can be reached from other machines`},
		{func(c *Config) { c.Admin.Web = "unix:/s" }, `admin.web: "unix:/s" is no place that a browser reaches: write HOST:PORT`},
		{func(c *Config) { c.Admin.Web = "6381" }, `admin.web: "6381" is not an address`},
		{func(c *Config) { c.Admin.Web = "127.0.0.1:6380" }, `admin.web: "127.0.0.1:6380" is the address for clients (listen) as well`},
		{func(c *Config) { c.Admin.Address, c.Admin.Web = "127.0.0.1:1", "localhost:1" }, `admin.web: "localhost:1" is admin.address as well`},
		{func(c *Config) { c.Admin.ViewToken = "some" }, "admin.view_token: without admin.token everybody may do all"},
		{func(c *Config) { c.Admin.Token, c.Admin.ViewToken = "same", "same" }, "admin.view_token: is admin.token as well"},
		{func(c *Config) { c.Admin.Token, c.Admin.ViewToken = "all", "so me" }, "admin.view_token: holds a space"},
		{func(c *Config) { c.State = "" }, "state: missing"},
		{func(c *Config) { c.Cutover.TimeZone = "Mars/Olympus" }, `cutover.time_zone: "Mars/Olympus" is not known`},
		{func(c *Config) { c.Cutover.Retries = -1 }, "cutover.retries: -1 is out of range: give 0 to 1000"},
		{func(c *Config) { c.Cutover.RetryWait = 0 }, "cutover.retry_wait: 0s is out of range"},
		{func(c *Config) { c.Cutover.Timeout = 1000 * time.Hour }, "cutover.timeout: 1000h0m0s is out of range"},
		{func(c *Config) { c.Log.Level = "loud" }, `log.level: "loud" is unknown: give debug, info, warn, error`},
		{func(c *Config) { c.Log.Format = "xml" }, `log.format: "xml" is unknown: give text, json, auto`},
		{func(c *Config) { c.Databases = map[int]Place{0: {}, 3: {}} },
			"databases: 0=0 and 3=0 would overwrite each other in target database 0: give each a target of its own, or a prefix"},
		{func(c *Config) { c.Databases = map[int]Place{0: {}, 3: {Prefix: "c3:"}} },
			"databases: 0=0 and 3=0:c3: share target database 0, and one of them has no prefix there: give both one"},
		{func(c *Config) { c.Databases = map[int]Place{1: {Prefix: "c1"}, 12: {Prefix: "c12"}} },
			"databases: 1=0:c1 and 12=0:c12 share target database 0, and one prefix begins the other, so that a key might be either's"},
		{func(c *Config) { c.Databases = map[int]Place{1: {Prefix: "a b"}} }, "databases: 1=0:a b: the prefix has a character that it may not have"},
		{func(c *Config) { c.Databases = map[int]Place{1: {Prefix: "cross"}} }, `databases: 1=0:cross: the prefix may be confused with "crossfade:"`},
		{func(c *Config) { c.Databases = map[int]Place{1: {Prefix: strings.Repeat("x", 101)}} }, "the prefix is 101 bytes long: give 100 at most"},
		{func(c *Config) { c.Databases = map[int]Place{-1: {}} }, "databases: -1=0 is negative"},
		{func(c *Config) { c.Databases = map[int]Place{0: {DB: -1}} }, "databases: 0=-1 is negative"},
		{func(c *Config) { c.LeaveOut = []int{-1} }, "leave_out: -1 is negative"},
		{func(c *Config) { c.Databases, c.LeaveOut = map[int]Place{3: {DB: 5}}, []int{3} }, "leave_out: 3 is mapped as well (databases: 3=5)"},
		{func(c *Config) { c.Source.TLS.CertFile = file }, "source.tls.key_file: missing"},
		{func(c *Config) { c.Target.TLS.CAFile = file + "no" }, "target.tls.ca_file: open "},
		{func(c *Config) { c.Proxy.MaxClients = 0 }, "proxy.max_clients: 0 is out of range: give 1 to 1000000"},
		{func(c *Config) { c.Proxy.DialTimeout = time.Hour }, "proxy.dial_timeout: 1h0m0s is out of range: give 10ms to 5m"},
		{func(c *Config) { c.Proxy.ScriptCache = -1 }, "proxy.script_cache: "},
		{func(c *Config) { c.Proxy.MaxBulk = 1 }, "proxy.max_bulk: "},
		{func(c *Config) { c.Proxy.Upstream = "both" }, "proxy.upstream: "},
		{func(c *Config) { c.Sync.Feed = "psync" }, "sync.feed: "},
		{func(c *Config) { c.Proxy.Loops = 65 }, "proxy.loops: "},
		{func(c *Config) { c.Proxy.OutputLimit = 1 }, "proxy.output_limit: "},
		{func(c *Config) { c.Proxy.ShutdownTimeout = -1 }, "give 0s to 1h"},
		{func(c *Config) { c.Proxy.UpstreamTimeout = 1 }, "proxy.upstream_timeout: 1ns is out of range: give 10ms to 24h, or 0s for no limit"},
		{func(c *Config) { c.Proxy.OutputTimeout = 1 }, "proxy.output_timeout: 1ns is out of range: give 10ms to 24h, or 0s for no limit"},
		{func(c *Config) { c.Proxy.OutputTimeout = -1 }, "proxy.output_timeout: -1ns is out of range"},
		{func(c *Config) { c.Proxy.UpstreamTimeout, c.Proxy.OutputTimeout = 0, 0 }, ""},
		{func(c *Config) { c.Sync.Workers = 257 }, "sync.workers: 257 is out of range: give 1 to 256"},
		{func(c *Config) { c.Sync.Batch = 10001 }, "sync.batch: 10001 is out of range: give 0 to 10000"},
		{func(c *Config) { c.Sync.ScanCount = -1 }, "sync.scan_count: "},
		{func(c *Config) { c.Sync.DirtyLimit = 0 }, "sync.dirty_limit: "},
		{func(c *Config) { c.Sync.KeysPerSecond = -1 }, "sync.keys_per_second: "},
		{func(c *Config) { c.Sync.BytesPerSecond = -1 }, "sync.bytes_per_second: "},
		{func(c *Config) { c.Sync.Heartbeat = time.Millisecond }, "sync.heartbeat: 1ms is out of range: give 10ms to 1m"},
		{func(c *Config) { c.Cutover.MaxStall = 0 }, "cutover.max_stall: 0s is out of range: give 1ms to 5m"},
		{func(c *Config) { c.Cutover.MaxLag = 0 }, "cutover.max_lag: "},
		{func(c *Config) { c.Cutover.WaitReady = -1 }, "give 0s to 24h"},
		{func(c *Config) { c.Cutover.CheckSample = -1 }, "cutover.check_sample: "},
		{func(c *Config) { c.Log.StatusInterval = 0 }, "log.status_interval: 0s is out of range: give 100ms to 1h"},
	}
	for i, test := range tests {
		c := Default()
		test.change(&c)
		check(t, i, c.Validate(), test.want)
	}
	c := Default()
	for _, test := range tests[10:] {
		test.change(&c) // several at once
	}
	if lines := strings.Split(c.Validate().Error(), "\n"); len(lines) < 20 {
		t.Errorf("not all at once: %q", lines)
	}
}

func check(t *testing.T, i int, err error, want string) {
	t.Helper()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if (want == "") != (text == "") || !strings.Contains(text, want) || strings.Contains(text, "\n") || strings.Contains(text, "hid") {
		t.Errorf("%d: got %s, want %s", i, text, want)
	}
}

func TestValidateServers(t *testing.T) {
	tests := []struct{ listen, source, target, want string }{
		{"127.0.0.1:6380", "redis://a", "redis://b", ""},
		{"127.0.0.1:6380", "redis://a:1", "redis://a:2", ""},
		{"127.0.0.1:6380", "unix:/a", "unix:/b", ""},
		{"127.0.0.1:6380", "redis://127.0.0.1:6379", "redis://127.0.0.2:6379", ""},
		{"127.0.0.1:6380", "", "redis://b", "source.url: missing"},
		{"127.0.0.1:6380", "redis://a", "", "target.url: missing"},
		{"127.0.0.1:6380", "redis://a/3", "redis://b", "source.url: \"redis://a/3\" names a database"},
		{"127.0.0.1:6380", "redis://a:1", "redis://b:hidden", "target.url: \"***\" is not a URL"},
		{"127.0.0.1:6380", "redis://A.", "rediss://a:6379", "target.url: \"rediss://a:6379\" is the source as well (\"redis://A.\")"},
		{"127.0.0.1:6380", "redis://localhost", "redis://x:hidden@[::1]", "is the source as well"},
		{"127.0.0.1:6380", "redis://[0:0::5]", "redis://[::5]", "is the source as well"},
		{"127.0.0.1:6380", "unix:/a/../b", "unix:///b", "is the source as well"},
		{":6379", "redis://localhost", "redis://b", "listen: \":6379\" is the address of the source"},
		{"127.0.0.1:6379", "redis://a", "redis://localhost", "listen: \"127.0.0.1:6379\" is the address of the target"},
		{"unix:s", "redis://a", "unix:./s", "is the address of the target"},
		{"127.0.0.1:6380", "redis+sentinel://a:1,b:1/m", "redis+sentinel://c:1,d:1/m", ""},
		{"127.0.0.1:6380", "redis+sentinel://a:1,b:1/m", "redis+sentinel://b:1,a:1/n", ""},
		{"127.0.0.1:6380", "redis+sentinel://a:1,b:1/m", "redis+sentinel://c:1,B.:1/m", "is the source as well"},
		{"127.0.0.1:6380", "redis+sentinel://a:1,b:1/m", "redis://a:1", ""},
		{"127.0.0.1:6380", "redis://a:1", "redis+cluster://b:1,c:1", ""},
		{"127.0.0.1:6380", "redis://c:1", "redis+cluster://b:1,c:1", "is the source as well"},
		{"127.0.0.1:6380", "redis+cluster://a:1", "redis://b:1", "source.url: a cluster cannot be the source"},
		{"127.0.0.1:7000", "redis://a:1", "redis+cluster://b:1,localhost:7000", "listen: \"127.0.0.1:7000\" is the address of the target"},
		{"127.0.0.1:26379", "redis+sentinel://a:1,localhost/m", "redis://b", "listen: \"127.0.0.1:26379\" is the address of the source"},
	}
	for i, test := range tests {
		c := Default()
		c.Listen, c.Source.URL, c.Target.URL = []string{test.listen}, Secret(test.source), Secret(test.target)
		check(t, i, c.ValidateServers(), test.want)
	}
	c := Default()
	c.Source.URL, c.Target.URL = "redis://a:1", "redis+cluster://b:1"
	c.Databases = map[int]Place{0: {Prefix: "c0:"}, 3: {DB: 5}}
	check(t, 0, c.ValidateServers(), "databases: 3=5: a cluster has database 0 alone: map it to a part of that with a prefix (3=0:c3: for example)")
	c.Databases[3] = Place{Prefix: "c3:"}
	check(t, 1, c.ValidateServers(), "")
	c = Default()
	if err := c.ValidateServers(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("both missing: %v", err)
	}
}

// TestTraces: where spans are sent to.
func TestTraces(t *testing.T) {
	for text, want := range map[string]string{
		"http://c:4318": "http://c:4318/v1/traces", "https://c/": "https://c/v1/traces", "http://[::1]:1/x/y": "http://[::1]:1/x/y",
		"c:4318": "", "grpc://c": "", "http://": "", "http://u:sesame@c": "", "http://c?token=sesame": "", "http://c#sesame": "", "http://c:x": "",
	} {
		c := Default()
		c.Source.URL, c.Target.URL, c.Traces.URL = "redis://a", "redis://b", Secret(text)
		u, err := c.Traces.Endpoint()
		if valid := c.Validate(); (err == nil) != (want != "") || err == nil && u.String() != want || (valid == nil) != (err == nil) {
			t.Errorf("%s is %v, %v; %v", text, u, err, valid)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "url: ") || strings.Contains(err.Error(), "sesame")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
