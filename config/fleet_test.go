package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMeeting(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load([]string{"--fleet.store", "etcd", "--fleet.etcd.endpoints", "https://a,https://[::1]:1/", "--fleet.etcd.username", "u",
		"--fleet.etcd.password_file", secret, "--fleet.etcd.prefix", "/team/x/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Fleet.Meeting()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Addresses, []string{"a:2379", "[::1]:1"}) || m.Username != "u" || m.Password != "hidden" || m.Prefix != "/team/x/" || m.ClientTLS() == nil {
		t.Errorf("%q, %q, %q, %q, %v", m.Addresses, m.Username, m.Password, m.Prefix, m.TLS)
	}
	text, _ := m.MarshalText()
	if all := fmt.Sprintf("%v %+v %#v %s %q", m, m, *m, *m, string(text)); strings.Contains(all, "hidden") || !strings.Contains(all, "etcd a:2379,[::1]:1") {
		t.Error(all)
	}
	if c = Default(); c.Fleet.Store != "target" {
		t.Errorf("they meet in %q", c.Fleet.Store)
	}
	if m, err := c.Fleet.Meeting(); m != nil || err != nil {
		t.Errorf("the target: %v, %v", m, err)
	}
	c.Fleet.Store, c.Fleet.Etcd.Endpoints = "etcd", []string{"http://a"}
	if m, err := c.Fleet.Meeting(); err != nil || m.ClientTLS() != nil || m.Prefix != "crossfade/" {
		t.Errorf("without TLS: %v, %v", m, err)
	}
	c.Fleet.Etcd.Username, c.Fleet.Etcd.PasswordFile = "u", "/none"
	if _, err := c.Fleet.Meeting(); err == nil || !strings.Contains(err.Error(), "fleet.etcd.password_file: ") {
		t.Errorf("a password file that is not there: %v", err)
	}
}

func TestMeetingProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Fleet)
		want   string
	}{
		"no endpoints":    {func(f *Fleet) { f.Etcd.Endpoints = nil }, "fleet.etcd.endpoints: missing"},
		"no scheme":       {func(f *Fleet) { f.Etcd.Endpoints = []string{"a:1"} }, `fleet.etcd.endpoints: "a:1" is no address of an etcd`},
		"another scheme":  {func(f *Fleet) { f.Etcd.Endpoints = []string{"unix://a"} }, "is no address of an etcd"},
		"a user":          {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://u:hidden@a"} }, "one has a user"},
		"a path":          {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://a/v3"} }, "more than an address"},
		"no host":         {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://:1"} }, "names no host"},
		"a wrong port":    {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://a:70000"} }, "port out of range"},
		"twice":           {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://a", "http://a:2379"} }, "named twice"},
		"of two kinds":    {func(f *Fleet) { f.Etcd.Endpoints = []string{"http://a", "https://b"} }, "some have TLS and some have not"},
		"no password":     {func(f *Fleet) { f.Etcd.Username = "u" }, "fleet.etcd.password: missing"},
		"no user":         {func(f *Fleet) { f.Etcd.Password = "hidden" }, "fleet.etcd.username: missing"},
		"no prefix":       {func(f *Fleet) { f.Etcd.Prefix = "" }, "fleet.etcd.prefix: "},
		"a strange one":   {func(f *Fleet) { f.Etcd.Prefix = "a b" }, "fleet.etcd.prefix: "},
		"files, no TLS":   {func(f *Fleet) { f.Etcd.TLS.ServerName = "x" }, "fleet.etcd.tls: settings without TLS"},
		"a missing file":  {func(f *Fleet) { f.Etcd.Endpoints, f.Etcd.TLS.CAFile = []string{"https://a"}, "/none" }, "fleet.etcd.tls.ca_file: "},
		"not chosen":      {func(f *Fleet) { f.Store = "target" }, "fleet.store is not etcd"},
		"an unknown word": {func(f *Fleet) { f.Store = "consul" }, `fleet.store: "consul" is unknown: give target, etcd`},
	} {
		t.Run(name, func(t *testing.T) {
			c := Default()
			c.Fleet.Store, c.Fleet.Etcd.Endpoints = "etcd", []string{"http://a"}
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			tt.change(&c.Fleet)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
