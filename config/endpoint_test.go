package config

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte("from file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := "unix:///" + strings.Repeat("x", 107)

	tests := []struct {
		server Server
		want   string // network address user password, or the error's text
	}{
		{Server{URL: "redis://h"}, `tcp h:6379 "" ""`},
		{Server{URL: "redis://h:7000/0"}, `tcp h:7000 "" ""`},
		{Server{URL: "REDIS://h:7000/"}, `tcp h:7000 "" ""`},
		{Server{URL: "rediss://h"}, `tcp h:6379 "" "" tls h`},
		{Server{URL: "rediss://h", TLS: TLS{ServerName: "n"}}, `tcp h:6379 "" "" tls n`},
		{Server{URL: "rediss://[::1]:1"}, `tcp [::1]:1 "" "" tls ::1`},
		{Server{URL: "redis://u:p@h"}, `tcp h:6379 "u" "p"`},
		{Server{URL: "redis://:p%40%2F%3F%23%20+:@h"}, `tcp h:6379 "" "p@/?# +:"`},
		{Server{URL: "redis://u:@h"}, `tcp h:6379 "u" ""`},
		{Server{URL: "redis://u@h", Password: "x"}, `tcp h:6379 "u" "x"`},
		{Server{URL: "redis://u:p@h", Username: "v", Password: "x", PasswordFile: "/none"}, `tcp h:6379 "v" "x"`},
		{Server{URL: "redis://u:p@h", PasswordFile: file}, `tcp h:6379 "u" "from file"`},
		{Server{URL: "redis://[fe80::1%25eth0]:7"}, `tcp [fe80::1%eth0]:7 "" ""`},
		{Server{URL: "unix:///run/r.sock"}, `unix /run/r.sock "" ""`},
		{Server{URL: "unix:r.sock"}, `unix r.sock "" ""`},
		{Server{URL: "unix://u:p@/run/r.sock"}, `unix /run/r.sock "u" "p"`},
		{Server{URL: "redis+sentinel://a,b:7,[::1],[::2]:8/my-master.1"}, `sentinel a:26379,b:7,[::1]:26379,[::2]:8/my-master.1 "" ""`},
		{Server{URL: "redis+sentinel://u:p@a/m/0"}, `sentinel a:26379/m "u" "p"`},
		{Server{URL: "Rediss+Sentinel://:p%40@a:1/m"}, `sentinel a:1/m "" "p@" tls  sentinels tls`},
		{Server{URL: "rediss+sentinel://a:1/m", Sentinel: Sentinel{TLS: "off"}}, `sentinel a:1/m "" "" tls `},
		{Server{URL: "redis+sentinel://a:1/m", Sentinel: Sentinel{TLS: "on"}, TLS: TLS{InsecureSkipVerify: true}}, `sentinel a:1/m "" "" sentinels tls`},
		{Server{URL: "redis+sentinel://a:1/m", Sentinel: Sentinel{Username: "s", Password: "x"}}, `sentinel a:1/m "" "" sentinels "s" "x"`},
		{Server{URL: "redis+sentinel://a:1/m", Sentinel: Sentinel{PasswordFile: file}}, `sentinel a:1/m "" "" sentinels "" "from file"`},

		{Server{URL: "redis+sentinel://a:1"}, "names no master: write redis+sentinel://"},
		{Server{URL: "redis+sentinel://a:1/"}, "names no master"},
		{Server{URL: "redis+sentinel:a:1/m"}, "write redis+sentinel://"},
		{Server{URL: "redis+sentinel:///m"}, "a sentinel has no host name"},
		{Server{URL: "redis+sentinel://a,,b/m"}, "a sentinel has no host name"},
		{Server{URL: "redis+sentinel://a:0/m"}, "port is out of range"},
		{Server{URL: "redis+sentinel://a,a:26379/m"}, "names the sentinel a:26379 twice"},
		{Server{URL: "redis+sentinel://a/m/3"}, "names a database: take it out"},
		{Server{URL: "redis+sentinel://a/m?db=3"}, "query parameters (db)"},
		{Server{URL: "redis+sentinel://a/m%20n"}, "the name of a master consists of"},
		{Server{URL: "redis+sentinel://hidden@a/m"}, "one word before the @"},
		{Server{URL: "redis+sentinel://:hid/den@a/m"}, "url: "},
		{Server{URL: "redis+sentinel://:hid?den@a/m"}, "query parameters (***)"},
		{Server{URL: "redis+sentinel://:hid#den@a/m"}, "url: "},
		{Server{URL: "redis+sentinel://a/m", TLS: TLS{CAFile: "x"}}, "tls: settings without TLS"},
		{Server{URL: "redis+sentinel://a/m", Sentinel: Sentinel{TLS: "maybe"}}, `sentinel.tls: "maybe" is not known: give same, on or off`},
		{Server{URL: "redis+sentinel://a/m", Sentinel: Sentinel{Username: "s"}}, "sentinel.password: missing"},
		{Server{URL: "redis+sentinel://a/m", Sentinel: Sentinel{PasswordFile: empty}}, "sentinel.password_file: "},
		{Server{URL: "redis://a", Sentinel: Sentinel{Password: "x"}}, "sentinel: settings without sentinels"},

		{Server{URL: "redis+cluster://a,b:7,[::1]"}, `cluster redis+cluster://a:6379,b:7,[::1]:6379 "" ""`},
		{Server{URL: "Redis+Cluster://u:p@a:1/0"}, `cluster redis+cluster://a:1 "u" "p"`},
		{Server{URL: "rediss+cluster://:p%40@a:1,b:1"}, `cluster redis+cluster://a:1,b:1 "" "p@" tls `},
		{Server{URL: "rediss+cluster://a:1", TLS: TLS{ServerName: "n"}}, `cluster redis+cluster://a:1 "" "" tls n`},
		{Server{URL: "redis+cluster://a:1", Username: "v", Password: "x"}, `cluster redis+cluster://a:1 "v" "x"`},

		{Server{URL: "redis+cluster://"}, "a node has no host name: write redis+cluster://"},
		{Server{URL: "redis+cluster:a:1"}, "write redis+cluster://"},
		{Server{URL: "redis+cluster://a,,b"}, "a node has no host name"},
		{Server{URL: "redis+cluster://a:0"}, "a node's port is out of range"},
		{Server{URL: "redis+cluster://a,a:6379"}, "names the node a:6379 twice"},
		{Server{URL: "redis+cluster://a/3"}, "has a path: a cluster has database 0 alone"},
		{Server{URL: "redis+cluster://a?db=3"}, "query parameters (db)"},
		{Server{URL: "redis+cluster://hidden@a"}, "one word before the @"},
		{Server{URL: "redis+cluster://:hid/den@a"}, "url: "},
		{Server{URL: "redis+cluster://:hid?den@a"}, "query parameters (***)"},
		{Server{URL: "redis+cluster://:hid#den@a"}, "url: "},
		{Server{URL: "redis+cluster://a", TLS: TLS{CAFile: "x"}}, "tls: settings without TLS"},
		{Server{URL: "redis+cluster://a", Sentinel: Sentinel{Password: "x"}}, "sentinel: settings without sentinels"},

		{Server{}, "url: missing: write redis://"},
		{Server{URL: "localhost"}, "url: no scheme: write redis://"},
		{Server{URL: "localhost:6379"}, "unknown scheme: write redis://"},
		{Server{URL: "http://h"}, "unknown scheme"},
		{Server{URL: "redis://h/3"}, "names a database: take it out and use the database map"},
		{Server{URL: "redis://h?db=3&hidden"}, "query parameters (db, ***)"},
		{Server{URL: "redis://:hid?den=1@h"}, "percent-encode"},
		{Server{URL: "redis://:1?hid=den@h"}, "query parameters (***)"},
		{Server{URL: "redis://:hid#den@h"}, "percent-encode"},
		{Server{URL: "redis://u:1#hidden@h"}, "a # in a password is written %23"},
		{Server{URL: "redis://:hid%zzden@h"}, "percent-encode"},
		{Server{URL: "redis://:1/hidden@h"}, "names a database"},
		{Server{URL: "redis://:p@:6379"}, "names no host"},
		{Server{URL: "redis://h:99999"}, "1 to 65535"},
		{Server{URL: "redis://h:0"}, "1 to 65535"},
		{Server{URL: "redis://hidden@h"}, "one word before the @"},
		{Server{URL: "unix://run/r.sock"}, "three slashes"},
		{Server{URL: Secret(long)}, "at most 107"},
		{Server{URL: "redis://h", PasswordFile: filepath.Join(dir, "none")}, "password_file: open "},
		{Server{URL: "redis://h", PasswordFile: empty}, "is empty"},
		{Server{URL: "redis://h", TLS: TLS{CAFile: "x"}}, "tls: settings without TLS"},
		{Server{URL: "rediss://h", TLS: TLS{CAFile: filepath.Join(dir, "none")}}, "tls.ca_file: open "},
		{Server{URL: "rediss://h", TLS: TLS{CAFile: file}}, "holds no certificate"},
		{Server{URL: "rediss://h", TLS: TLS{CertFile: file}}, "tls.key_file: missing"},
		{Server{URL: "rediss://h", TLS: TLS{KeyFile: file}}, "tls.cert_file: missing"},
		{Server{URL: "rediss://h", TLS: TLS{CertFile: file, KeyFile: file}}, "tls.cert_file: "},
	}
	for _, test := range tests {
		got := ""
		e, err := test.server.Endpoint()
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%s %s %q %q", e.Network, e.Address, e.Username, e.Password)
			if e.TLS != nil {
				got += " tls " + e.TLS.ServerName
			}
			if w := e.Watched; w != nil && w.TLS != nil {
				got += " sentinels tls"
			} else if w != nil && w.Password != "" {
				got += fmt.Sprintf(" sentinels %q %q", w.Username, w.Password.Reveal())
			}
		}
		if err == nil && got != test.want || err != nil && !strings.Contains(got, test.want) {
			t.Errorf("%q: got %s, want %s", test.server.URL.Reveal(), got, test.want)
		}
		if strings.Contains(got, "hid") || strings.Contains(got, "\n") {
			t.Errorf("%q: the error shows a secret: %s", test.server.URL.Reveal(), got)
		}
	}
}

func TestEndpointHidesPassword(t *testing.T) {
	e := Endpoint{Network: "tcp", Address: "h:1", Username: "u", Password: "hidden", TLS: &tls.Config{}}
	encoded, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{e.String(), fmt.Sprint(e), fmt.Sprintf("%+v %#v %s %q %d %x", e, e, e, e, e, e),
		fmt.Sprintf("%+v %#v", &e, []Endpoint{e}), string(encoded)} {
		if strings.Contains(text, "hidden") || strings.Contains(text, fmt.Sprintf("%x", "hidden")) {
			t.Errorf("shown: %s", text)
		}
		if !strings.Contains(text, "rediss://u@h:1") {
			t.Errorf("not shown: %s", text)
		}
	}
}

func TestEndpointOfSentinels(t *testing.T) {
	e, err := Server{URL: "rediss+sentinel://u:hidden@a:1,localhost:2/m", Sentinel: Sentinel{Username: "s", Password: "hidden"}}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.String(), "rediss+sentinel://u@a:1,localhost:2/m"; got != want {
		t.Errorf("shown as %s, want %s", got, want)
	}
	one := e.OfSentinel("a:1")
	if one.Network != "tcp" || one.Address != "a:1" || one.Username != "s" || one.Password != "hidden" || one.TLS == nil || one.Watched != nil {
		t.Errorf("a sentinel: %+v", one)
	}
	at := e.At("b:3")
	if at.String() != "rediss://u@b:3" || at.Password != "hidden" || at.Watched != nil {
		t.Errorf("the master: %+v", at)
	}
	if text := fmt.Sprintf("%+v %#v", e.Watched, *e.Watched); strings.Contains(text, "hidden") {
		t.Errorf("shown: %s", text)
	}
	for address, want := range map[string]bool{
		"a:1,localhost:2/m": true, "127.0.0.1:2/m": true, "x:1,a:1/m": true,
		"a:1/n": false, "b:1/m": false, "a:1": false, "/a:1/m": false, "": false,
	} {
		if e.SamePlace(address) != want {
			t.Errorf("%q is the same place: %v", address, !want)
		}
	}
	for address, want := range map[string]bool{"a:1/m": true, "a:1": false, "/run/redis.sock": false, "/a:1/m": false, "r.sock": false} {
		if NamesSentinels(address) != want {
			t.Errorf("%q names sentinels: %v", address, !want)
		}
	}
}

func TestEndpointOfCluster(t *testing.T) {
	e, err := Server{URL: "rediss+cluster://u:hidden@a:1,localhost:2"}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.String(), "rediss+cluster://u@a:1,localhost:2"; got != want {
		t.Errorf("shown as %s, want %s", got, want)
	}
	if at := e.At("b:3"); at.String() != "rediss://u@b:3" || at.Password != "hidden" || at.Cluster != nil {
		t.Errorf("a node: %+v", at)
	}
	for address, want := range map[string]bool{
		"redis+cluster://a:1,localhost:2": true, "redis+cluster://127.0.0.1:2": true, "redis+cluster://x:1,a:1": true,
		"redis+cluster://b:1": false, "cluster:1": false, "a:1": false, "a:1,localhost:2/m": false, "": false,
	} {
		if e.SamePlace(address) != want {
			t.Errorf("%q is the same place: %v", address, !want)
		}
	}
	node, err := Server{URL: "redis://a:1"}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	if node.SamePlace(e.Address) {
		t.Errorf("a node is taken for its cluster: %s", e.Address)
	}
	for url, network := range map[Secret]string{"redis://cluster:6379": "tcp", "redis+sentinel://cluster:1,b:2/cluster": "sentinel", "unix:cluster:1": "unix"} {
		other, err := Server{URL: url}.Endpoint()
		if err != nil || other.Network != network || other.Cluster != nil || NamesCluster(other.Address) || other.SamePlace(e.Address) {
			t.Errorf("%s is taken for a cluster: %+v, %v", url, other, err)
		}
	}
	if other, err := (Server{URL: "unix:redis+cluster://a:1"}).Endpoint(); err == nil {
		t.Errorf("a socket that is called like a cluster: %+v", other)
	}
	if NamesSentinels(e.Address) {
		t.Errorf("%s is taken for one that sentinels watch", e.Address)
	}
	for address, want := range map[string]bool{e.Address: true, "a:1/m": false, "a:1": false, "cluster:6379": false, "cluster:1,b:2/cluster": false, "/cluster:a": false, "": false} {
		if NamesCluster(address) != want {
			t.Errorf("%q names a cluster: %v", address, !want)
		}
	}
}

func TestSecretString(t *testing.T) {
	tests := map[Secret]string{
		"":             "",
		"word":         "***",
		"a:/hidden":    "***",
		"p://hidden/x": "***",
		"redis://h:1":  "redis://h:1",

		"redis+sentinel://u:hidden@a:1,b:2/m": "redis+sentinel://u:***@a:1,b:2/m",
		"rediss+sentinel://hidden@a:1,b:2/m":  "rediss+sentinel://***@a:1,b:2/m",
		"redis+sentinel://:hid/den@a:1,b:2/m": "***",
		"redis+cluster://u:hidden@a:1,b:2":    "redis+cluster://u:***@a:1,b:2",
		"redis+cluster://:hid/den@a:1,b:2":    "***",
		"redis://u:p@h:1/0":                   "redis://u:***@h:1/0",
		"redis://:p@h":                        "redis://:***@h",
		"redis://hidden@h":                    "redis://***@h",
		"redis://:1/hidden@h":                 "***",
		"redis://:1#hidden@h":                 "***",
		"redis://h?pass=hidden":               "***",
		"redis:hidden":                        "***",
		"unix:r.sock":                         "unix:r.sock",
		"unix://u:p@/run/r.sock":              "unix://u:***@/run/r.sock",
	}
	for secret, want := range tests {
		if got := secret.String(); got != want {
			t.Errorf("%q: got %q, want %q", secret.Reveal(), got, want)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
			got := fmt.Sprintf(verb, struct{ S Secret }{secret})
			if strings.Contains(got, "hidden") || strings.Contains(got, fmt.Sprintf("%x", "hidden")) {
				t.Errorf("%s shows %s", verb, got)
			}
		}
	}
}
