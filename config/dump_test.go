package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

func full() Config {
	c := Default()
	c.Source = Server{URL: "redis://user:hidden1@h:1", Username: "u: x", Password: "hidden2", PasswordFile: "/p q"}
	c.Target = Server{URL: "rediss://:hidden3@h:2", Password: "hidden4", TLS: TLS{ServerName: "#n", InsecureSkipVerify: true}}
	c.Databases = map[int]Place{3: {DB: 5}, 0: {}, 7: {DB: 1, Prefix: "{c7}:"}, 8: {DB: 1, Prefix: "#8:"}}
	c.LeaveOut = []int{1, 2}
	c.Admin.Token = "hidden5"
	c.Fleet = Fleet{Store: "etcd", Etcd: Etcd{Endpoints: []string{"http://a:1", "http://b"}, Username: "u", Password: "hidden9", Prefix: "x"}}
	c.Sync.SetNotifications = false
	c.Cutover.MaxStall = 1500 * time.Millisecond
	c.State = "yes"
	c.Listen = []string{"127.0.0.1:6380", "[::1]:6380", "unix:/a b?mode=0660"}
	c.Proxy.ProxyProtocol, c.Proxy.ProxyProtocolFrom = "optional", []string{"10.0.0.0/8", "unix"}
	c.Hooks = []Hook{{On: []string{"all"}, Run: []string{"/bin/x y", "-a, b", "yes", "0123"}, Timeout: "1s"}, {On: []string{"prepared"}, Run: []string{"z"}, Veto: "true"}}
	c.Proxy.Credentials = []Credential{
		{User: "app", Password: "hidden6", TargetUser: "yes", TargetPassword: "hidden7"},
		{Password: "hidden8", TargetPasswordFile: "/p: q"},
	}
	return c
}

func TestDumpParsesBack(t *testing.T) {
	for _, c := range []Config{Default(), full()} {
		var out bytes.Buffer
		if err := c.Dump(&out); err != nil {
			t.Fatal(err)
		}
		got, _, err := Load([]string{"--config", write(t, out.String())}, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if !reflect.DeepEqual(got, c.Redacted()) {
			t.Errorf("got  %+v\nwant %+v\n%s", got, c.Redacted(), out.String())
		}
		var again bytes.Buffer
		if err := got.Dump(&again); err != nil || again.String() != out.String() {
			t.Errorf("%v, second dump\n%s", err, again.String())
		}
	}
}

func TestNoSecretIsShown(t *testing.T) {
	c := full()
	var out bytes.Buffer
	if err := c.Dump(&out); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		_, _ = fmt.Fprintf(&out, verb+"\n"+verb+"\n", c, &c.Source)
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	encoded, err = json.Marshal(c.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "c", c, "p", &c, "s", c.Source.Password, "u", c.Source.URL)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "c", c, "p", &c, "s", c.Source.Password, "u", c.Source.URL)
	_, _ = fmt.Fprintf(&out, "%v", string(c.Redacted().Source.URL)+string(c.Redacted().Target.Password)+string(c.Redacted().Admin.Token))
	if text := strings.ToLower(out.String()); strings.Contains(text, "hidden") || strings.Contains(text, fmt.Sprintf("%x", "hidden")) {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "redis://user:***@h:1") {
		t.Errorf("the URL without its password is not shown:\n%s", out.String())
	}
}

func TestExampleIsCompleteAndDefault(t *testing.T) {
	c, _, err := Load([]string{"--config", write(t, string(Example))}, nil)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("the example gives %+v, %v", c, err)
	}
	tree := newTree()
	l, problems := parseFile(tree, "example.yaml", Example)
	if len(problems) > 0 {
		t.Error(problems)
	}
	docs := comments(tree)
	for _, k := range tree.keys {
		if _, there := l[k.path]; !there {
			t.Errorf("%s is not in the example", k.path)
		}
		if docs[k.path] == "" {
			t.Errorf("%s has no comment in the example", k.path)
		}
	}
}
