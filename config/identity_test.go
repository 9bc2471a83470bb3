package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestIdentities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := write(t, `
proxy:
  credentials:
    - {user: app, password: 0123, target_user: app2, target_password: "t,1"}
    - &lib {user: lib, password_file: `+file+`}
`)
	want := []Identity{
		{Login{"app", "0123"}, Login{"app", "0123"}, Login{"app2", "t,1"}},
		{Login{"lib", "from file"}, Login{"lib", "from file"}, Login{}},
	}
	c, _, err := Load([]string{"--config", name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, problems := c.Proxy.Identities(); len(problems) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, %v", got, problems)
	}
	users := `[{"name": "web", "password": "w", "source_user": "app", "source_password": "s", "target_password": "t"}]`
	c, _, err = Load(nil, []string{"CROSSFADE_PROXY_USERS=" + users})
	if err != nil {
		t.Fatal(err)
	}
	want = []Identity{{Login{"web", "w"}, Login{"app", "s"}, Login{"", "t"}}}
	if got, problems := c.Proxy.Identities(); len(problems) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, %v", got, problems)
	}
}

func TestIdentityProblems(t *testing.T) {
	tests := []struct {
		credentials, users string
		want               []string
	}{
		{"[{user: a}]", "", []string{"proxy.credentials[0].password: missing: give it, or proxy.credentials[0].password_file"}},
		{"[{password: hidden, target_user: b}]", "", []string{"proxy.credentials[0].target_password: missing"}},
		{"[{user: a, password: hidden}, {user: a, password: hidden}]", "", []string{`user "a" is listed twice with the same password`}},
		{"[{password: hidden}, {user: default, password: hidden}]", "", []string{`user "default" is listed twice`}},
		{"[{user: a b, password: hidden}]", "", []string{`proxy.credentials[0].user: "a b" holds a space`}},
		{"[{user: a, password_file: /none/p}]", "", []string{"proxy.credentials[0].password_file: open /none/p"}},
		{"[{password: x}]", "[{password: y}]", []string{"proxy.users: proxy.credentials are given as well: keep one of the two"}},
		{"", "[{name: a, source_user: b, target_user: c}]", []string{"proxy.users[0].password: missing", "proxy.users[0].source_password: missing", "proxy.users[0].target_password: missing"}},
		{"[{usr: hidden}]", "", []string{`--proxy.credentials: entry 0 has an unknown key: did you mean "user"?`}},
		{"[{password: a, hidden}]", "", []string{"entry 0 has an unknown key"}},
		{"[{user: a, user: hidden}]", "", []string{"proxy.credentials: "}},
		{"[{user: [hidden]}]", "", []string{`entry 0 has a "user" that is no plain value`}},
		{"[hidden]", "", []string{"entry 0 is no record: write a list of records, such as [{user: app, password: …}]"}},
		{"{user: hidden}", "", []string{"is no list"}},
		{"[{hidden", "", []string{"is not valid YAML"}},
	}
	for i, test := range tests {
		c, _, err := Load([]string{"--proxy.credentials", test.credentials, "--proxy.users", test.users}, nil)
		text := ""
		if err != nil {
			text = err.Error()
		} else if _, problems := c.Proxy.Identities(); len(problems) > 0 {
			text = problems[0].Error()
		}
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%d: got %s, want %s", i, text, want)
			}
		}
		if strings.Contains(text, "hidden") {
			t.Errorf("%d: a secret is shown: %s", i, text)
		}
	}
	_, _, err := Load([]string{"--config", write(t, "proxy:\n  users: {a: hidden}\n  credentials:\n    - hidden\n")}, nil)
	if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), "c.yaml:2: proxy.users: is no list") {
		t.Errorf("got %v", err)
	}
}
