package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNothingGivesDefault(t *testing.T) {
	c, rest, err := Load(nil, []string{"HOME=/x", "CROSSFADE_SOURCE="})
	if err != nil || len(rest) != 0 || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("got %+v, %v, %v", c, rest, err)
	}
	if c, _, err = Load(nil, []string{"CROSSFADE_CONFIG=" + write(t, "")}); err != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("empty file: got %+v, %v", c, err)
	}
	comments := write(t, "# nothing\nsource:\nsync: {}\nstate:\n")
	if c, _, err = Load([]string{"--config", comments}, nil); err != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("empty sections: got %+v, %v", c, err)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, `
listen: 127.0.0.1:1
state: file
source: redis://file
target: {url: redis://file-target, password: 0123, tls: {insecure_skip_verify: yes}}
databases: {0: 0, 3: 5}
leave_out: [1, 2]
admin: unix:file.sock
sync:
  workers: 1
  batch: 1_000
  dirty_limit: 2M
cutover.max_stall: 10ms
`)
	c, rest, err := Load(
		[]string{"--listen", "127.0.0.1:3", "--cutover.unsafe", "--map", "1=1", "--map", "2=3", "--sync.set_notifications=false",
			"-log-level", "debug", "--leave-out=", "--proxy.dial_timeout", "1m", "a", "b"},
		[]string{"CROSSFADE_CONFIG=" + file, "CROSSFADE_LISTEN=127.0.0.1:2", "CROSSFADE_STATE=env", "CROSSFADE_SOURCE=redis://env",
			"CROSSFADE_SOURCE_PASSWORD=p=q", "CROSSFADE_DATABASES=7=7", "CROSSFADE_SYNC_WORKERS=2", "CROSSFADE_ADMIN_ADDRESS=unix:env.sock"})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen = []string{"127.0.0.1:3"}
	want.State = "env"
	want.Source.URL, want.Source.Password = "redis://env", "p=q"
	want.Target.URL, want.Target.Password, want.Target.TLS = "redis://file-target", "0123", TLS{InsecureSkipVerify: true}
	want.Databases = map[int]Place{1: {DB: 1}, 2: {DB: 3}}
	want.Admin.Address = "unix:env.sock"
	want.Sync.Workers, want.Sync.Batch, want.Sync.DirtyLimit, want.Sync.SetNotifications = 2, 1000, 2_000_000, false
	want.Cutover.MaxStall, want.Cutover.Unsafe = 10*time.Millisecond, true
	want.Proxy.DialTimeout = time.Minute
	want.Log.Level = "debug"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if strings.Join(rest, " ") != "a b" {
		t.Errorf("rest is %q", rest)
	}
}

// sample gives a text that is not the default, for each key.
func sample(k key) string {
	switch k.typ.Kind() {
	case reflect.Map:
		return "3=5"
	case reflect.Slice:
		if k.path == "hooks" {
			return "[{on: [prepared, committed], run: [/bin/x, '-a, b']}, {on: all, url: 'https://h/secret', timeout: 1s}]"
		}
		if k.path == "sync.schedule" {
			return "[{days: Mon-Fri, keys_per_second: 5}, {hours: '08:00-09:00', pause: yes}]"
		}
		if isRecords(k.typ) {
			return "[{password: text, target_user: '0123', target_password: 5}, {password_file: text}]"
		}
		return "9"
	case reflect.Bool:
		if strings.Contains(k.path, "set_notifications") || strings.Contains(k.path, "create_user") {
			return "false"
		}
		return "true"
	case reflect.Int:
		return "7"
	case reflect.Int64:
		return "777ms"
	}
	return "text"
}

// TestEveryKeyEverywhere sets each key alone through each layer, under each name.
func TestEveryKeyEverywhere(t *testing.T) {
	tree := newTree()
	want := func(k key) Config {
		value, err := parseText(k.typ, sample(k))
		if err != nil {
			t.Fatal(err)
		}
		c := Default()
		reflect.ValueOf(&c).Elem().FieldByIndex(k.index).Set(reflect.ValueOf(value))
		return c
	}
	try := func(name string, k key, args, environ []string) {
		t.Helper()
		c, _, _ := Load(args, environ) // "text" is no valid value of many keys
		switch k.path {
		case "admin.token_file":
			c.Admin.Token = ""
		case "admin.view_token_file":
			c.Admin.ViewToken = ""
		}
		if !reflect.DeepEqual(c, want(k)) {
			t.Errorf("%s: got  %+v\nwant %+v", name, c, want(k))
		}
	}
	variables, _ := tree.names(envName)
	for name, k := range variables {
		try(name, k, nil, []string{name + "=" + sample(k)})
	}
	flags, _ := tree.names(func(path string) string { return path })
	for name, k := range flags {
		try("--"+name, k, []string{"--" + name + "=" + sample(k)}, nil)
	}
	for _, k := range tree.keys {
		parts := strings.Split(k.path, ".")
		try("file "+k.path, k, []string{"--config", write(t, strings.Join(parts, ": {")+": "+sample(k)+strings.Repeat("}", len(parts)-1))}, nil)
	}
}

func TestNamesAreUnambiguous(t *testing.T) {
	tree := newTree()
	seen := map[string]string{}
	note := func(name, path string) {
		if before, there := seen[name]; there && before != path {
			t.Errorf("%s means both %s and %s", name, before, path)
		}
		seen[name] = path
	}
	for _, k := range tree.keys {
		note(k.env(), k.path)
		if ownVariables[k.env()] || kubernetes.MatchString(k.env()) {
			t.Errorf("%s would be ignored", k.env())
		}
	}
	for _, more := range []map[string]string{shorts, aliases} {
		for name, path := range more {
			if _, there := tree.byPath[path]; !there {
				t.Errorf("%s stands for %s, which is no key", name, path)
			}
			note(envName(name), path)
		}
	}
	for _, name := range []string{"CROSSFADE_SOURCE", "CROSSFADE_SOURCE_URL", "CROSSFADE_ADMIN", "CROSSFADE_ADMIN_TOKEN", "CROSSFADE_MAP",
		"CROSSFADE_LEAVE_OUT", "CROSSFADE_SYNC_SCAN_COUNT", "CROSSFADE_TARGET_TLS_INSECURE_SKIP_VERIFY"} {
		if seen[name] == "" {
			t.Errorf("%s sets nothing", name)
		}
	}
}

func TestProblemsOfLayers(t *testing.T) {
	tests := []struct {
		file string
		args []string
		env  []string
		want []string // each in the error
	}{
		{file: "listne: x", want: []string{`c.yaml:1: unknown key "listne": did you mean "listen"?`}},
		{file: "a: 1\nsync:\n  wokers: 4\nworkers: 4", want: []string{`:3: unknown key "sync.wokers": did you mean "sync.workers"?`,
			`:4: unknown key "workers": did you mean "sync.workers"?`, `:1: unknown key "a"`}},
		{file: "map: {0: 0}", want: []string{`did you mean "databases"?`}},
		{file: "sorce: {url: x}", want: []string{`did you mean "source"?`}},
		{file: "source: {tls: {cafile: x}}", want: []string{`did you mean "source.tls.ca_file"?`}},
		{file: "sync:\n  workers: four", want: []string{`c.yaml:2: sync.workers: "four" is not a whole number: write one such as 1000`}},
		{file: "sync:\n  workers: [4]", want: []string{`c.yaml:2: sync.workers: not a plain value: write a whole number`}},
		{file: "sync: 4", want: []string{"c.yaml:1: sync: expected lines KEY: VALUE"}},
		{file: "cutover: {max_stall: 5, unsafe: maybe}", want: []string{`cutover.max_stall: "5" has no unit: write 5s, 5ms`, `cutover.unsafe: "maybe" is neither true nor false`}},
		{file: "databases: {0: 0, 3: 5, 3: 6}", want: []string{"source database 3 twice (to 5 and to 6)"}},
		{file: "databases: {0: {db: 1, of: 2}}", want: []string{"databases: not a plain value: write SOURCE: TARGET pairs"}},
		{file: "databases: {0: {prefix: a}}", want: []string{"databases: not a plain value"}},
		{file: "databases: {0: {db: 1, prefix: ''}}", want: []string{"databases: not a plain value"}},
		{file: "databases: {0: {db: 1, prefix: 'a,1=1'}}", want: []string{"databases: not a plain value"}},
		{file: "databases: {0: {db: '1:a', prefix: b}}", want: []string{"databases: not a plain value"}},
		{file: "databases: {0: {db: x, prefix: b}}", want: []string{`databases: "0=x:b" is not a database map`}},
		{file: "databases: {1: {db: 0, prefix: 'c1'}, 2: {db: 0, prefix: c12}, 3: 0}", want: []string{
			"databases: 1=0:c1 and 2=0:c12 share target database 0, and one prefix begins the other",
			"databases: 1=0:c1 and 3=0 share target database 0, and one of them has no prefix there",
			"databases: 2=0:c12 and 3=0 share",
		}},
		{file: "databases: {0: '1,2=3'}", want: []string{"databases: not a plain value"}},
		{file: "databases: {a: 1}", want: []string{`databases: "a=1" is not a database map ("a=1"): write SOURCE=TARGET`}},
		{file: "leave_out: [x]", want: []string{`leave_out: "x" is not a list of databases`}},
		{file: "state: x\nstate: y", want: []string{"c.yaml:2: state: written twice, first in line 1"}},
		{file: "source: a\nsource.url: b", want: []string{"source.url: written twice, first at"}},
		{file: "hello", want: []string{"c.yaml:1: the file: expected lines KEY: VALUE"}},
		{file: "- a", want: []string{"c.yaml:1: the file: expected lines KEY: VALUE"}},
		{file: "a: b: c", want: []string{"c.yaml:1: not valid YAML: mapping values are not allowed"}},
		{file: "listen: x\n\tstate: y", want: []string{"c.yaml:2: not valid YAML"}},
		{file: "listen: x\n\x00\x01", want: []string{"c.yaml:2: not a text"}},
		{file: "\x1f\x8b\xff", want: []string{"c.yaml:1: not a text"}},
		{file: "listen: x\n---\nlisten: y", want: []string{"a second document"}},
		{file: "\nsource: {password: *hidden}", want: []string{"c.yaml:2: not valid YAML: a value that begins with * must stand in quotes"}},
		{file: "source: {password: !hidden x}", want: []string{"source.password: not a plain value"}},
		{file: "? [a]\n: b", want: []string{"a key must be a word"}},
		{file: "a: &a {b: *a}", want: []string{`unknown key "a"`}},
		{file: "source: &a {tls: *a}", want: []string{`unknown key "source.tls.tls"`}},

		{env: []string{"CROSSFADE_SYNC_WOKERS=1"}, want: []string{"CROSSFADE_SYNC_WOKERS: unknown variable: did you mean CROSSFADE_SYNC_WORKERS?"}},
		{env: []string{"CROSSFADE_WORKERS=hidden"}, want: []string{"did you mean CROSSFADE_SYNC_WORKERS?"}},
		{env: []string{"CROSSFADE_SYNC_WORKERS=x"}, want: []string{`CROSSFADE_SYNC_WORKERS: sync.workers: "x" is not a whole number`}},
		{env: []string{"CROSSFADE_ADMIN=unix:a", "CROSSFADE_ADMIN_ADDRESS=unix:b"}, want: []string{"CROSSFADE_ADMIN and CROSSFADE_ADMIN_ADDRESS both set admin.address"}},
		{env: []string{"CROSSFADE_CONFIG=/none.yaml"}, want: []string{"reading the configuration: open /none.yaml"}},
		{env: []string{"CROSSFADE_MAP=0=0,0=0"}, want: []string{"source database 0 twice"}},

		{args: []string{"--sorce", "x"}, want: []string{"unknown flag --sorce: did you mean --source?"}},
		{args: []string{"--source.pasword=hidden"}, want: []string{"unknown flag --source.pasword: did you mean --source.password?"}},
		{args: []string{"---source.password=hidden"}, want: []string{"bad flag syntax"}},
		{args: []string{"--listen"}, want: []string{"flag needs an argument: -listen"}},
		{args: []string{"--map", "0=0,3"}, want: []string{`--map: databases: "0=0,3" is not a database map ("3")`}},
		{args: []string{"--map", "0=0", "--map", "0=1"}, want: []string{"source database 0 twice (to 0 and to 1)"}},
		{args: []string{"--map", "0=0:"}, want: []string{`--map: databases: "0=0:" is not a database map ("0=0:")`, "SOURCE=TARGET:PREFIX"}},
		{args: []string{"--map", "0=99999999999"}, want: []string{"is not a database map"}},
		{args: []string{"--sync.workers", "99999999999999G"}, want: []string{"is too big a number"}},
		{args: []string{"--cutover.unsafe", "false"}, want: []string{"write --cutover.unsafe=false"}},
		{args: []string{"--admin.token_file", "/none"}, want: []string{"admin.token_file: open /none"}},
		{args: []string{"--config", "/none"}, want: []string{"reading the configuration: open /none"}},
		// Everything at once.
		{file: "a: 1\nsync: {workers: x, batch: -1}", env: []string{"CROSSFADE_B=1"}, args: []string{"--listen=y"},
			want: []string{`unknown key "a"`, "sync.workers", "sync.batch: -1 is out of range", "CROSSFADE_B", `listen: "y"`}},
	}
	for _, test := range tests {
		args := test.args
		if test.file != "" {
			args = append([]string{"--config", write(t, test.file)}, args...)
		}
		_, _, err := Load(args, test.env)
		if err == nil {
			t.Errorf("%q %q %q: no error", test.file, test.args, test.env)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q %q %q: got %v, want %s", test.file, test.args, test.env, err, want)
			}
		}
		if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q %q %q: the error shows a secret: %v", test.file, test.args, test.env, err)
		}
		if len(test.want) == 1 && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %q %q: more than one line: %v", test.file, test.args, test.env, err)
		}
	}
}

func TestVariablesThatAreNotOurs(t *testing.T) {
	c, _, err := Load(nil, []string{"CROSSFADE_SERVICE_HOST=10.0.0.1", "CROSSFADE_SERVICE_PORT=6380", "CROSSFADE_SERVICE_PORT_REDIS=6380",
		"CROSSFADE_PORT=tcp://10.0.0.1:6380", "CROSSFADE_PORT_6380_TCP=tcp://10.0.0.1:6380", "CROSSFADE_PORT_6380_TCP_PROTO=tcp",
		"CROSSFADE_ADMIN_SERVICE_HOST=10.0.0.1", "CROSSFADE_ADMIN_PORT_9000_TCP_ADDR=10.0.0.1", "CROSSFADE_FAILPOINT=x",
		"CROSSFADER=1", "crossfade_listen=x", "=", "", "CROSSFADE_LISTEN"})
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestSecretFilesInLayers(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from-file\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := write(t, "source: {url: 'redis://h', password: early}\nadmin: {token_file: "+secret+"}")
	c, _, err := Load([]string{"--config", base, "--source.password_file", secret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Source.Endpoint(); err != nil || e.Password != "from-file" {
		t.Errorf("a later password_file does not beat an earlier password: %q, %v", e.Password, err)
	}
	if c.Admin.Token.Reveal() != "from-file" {
		t.Errorf("token is %q", c.Admin.Token.Reveal())
	}
	c, _, err = Load([]string{"--config", base}, []string{"CROSSFADE_ADMIN_TOKEN=late"})
	if err != nil || c.Admin.Token.Reveal() != "late" {
		t.Errorf("a later token does not beat an earlier token_file: %q, %v", c.Admin.Token.Reveal(), err)
	}
}

func TestBindNextToOtherFlags(t *testing.T) {
	set := flag.NewFlagSet("cutover", flag.ContinueOnError)
	dry := set.Bool("dry-run", false, "")
	flags := Bind(set)
	rest, err := flags.Parse([]string{"--dry-run", "--max-stall", "50ms", "x"})
	if err != nil || !*dry || len(rest) != 1 {
		t.Fatal(rest, err)
	}
	c, err := flags.Load(nil)
	if err != nil || c.Cutover.MaxStall != 50*time.Millisecond {
		t.Fatal(c.Cutover.MaxStall, err)
	}
	if _, err := flags.Parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	if _, err := flags.Parse([]string{"--dryrun"}); err == nil || !strings.Contains(err.Error(), "did you mean --dry-run?") {
		t.Error(err)
	}
	var out strings.Builder
	set.SetOutput(&out)
	set.PrintDefaults()
	for _, want := range []string{"short for --source.url", "-sync.heartbeat", "(default 1s)", "prove that changes arrive"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("usage lacks %q:\n%s", want, out.String())
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(string(Example), "CROSSFADE_MAP=0=0,3=5", "--map\x000=0")
	for _, text := range []string{"", "a: &a [*a]", "source: &s {tls: *s}", "<<: {a: b}", "? ? ?", "[[[[", "databases: {? {a: b} : c}", "%YAML 9", "\xff\xfe\x00", "listen: !!binary aGk=",
		"&a : *a", "- - -\n-", "source: |\n  x\n y", "sync: !!map x", "leave_out: [1, [2]]", "\"\\ud800\": x"} {
		f.Add(text, text, text)
	}
	tree := newTree()
	f.Fuzz(func(t *testing.T, file, env, args string) {
		l, problems := parseFile(tree, "f", []byte(file))
		c, more := merge(tree, []layer{l})
		for _, err := range append(problems, more...) {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		}
		_, _ = c.Validate(), c.ValidateServers()
		if err := c.Dump(&strings.Builder{}); err != nil {
			t.Error(err)
		}
		flags := Bind(flag.NewFlagSet("", flag.ContinueOnError))
		if _, err := flags.Parse(strings.Split(args, "\x00")); err == nil && flags.file == "" {
			flags.layer["admin.token_file"] = given{} // read no files of the machine
			flags.layer["admin.view_token_file"] = given{}
			_, _ = flags.Load([]string{env})
		}
	})
}

// TestALoginOfAnotherServer has a later layer name another server, with the login for it:
// what an earlier one says of the first server's does not go there.
func TestALoginOfAnotherServer(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of-A"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file     string
		env, args      []string
		user, password string
	}{
		{"a password", "{url: 'redis://A', username: app, password: of-A}", nil, []string{"--source", "redis://:of-B@B"}, "", "of-B"},
		{"a user and a password", "{url: 'redis://A', username: app, password: of-A}", nil, []string{"--source", "redis://b:of-B@B"}, "b", "of-B"},
		{"a file", "{url: 'redis://A', password_file: " + secret + "}", nil, []string{"--source", "redis://:of-B@B"}, "", "of-B"},
		{"an empty password", "{url: 'redis://A', password: of-A}", nil, []string{"--source", "redis://b:@B"}, "b", ""},
		{"sentinels", "{url: 'redis://A', password: of-A}", nil, []string{"--source", "redis+sentinel://:of-B@B,C:1/m"}, "", "of-B"},
		{"a cluster", "{url: 'redis://A', password: of-A}", nil, []string{"--source", "redis+cluster://:of-B@B,C:1"}, "", "of-B"},
		{"a socket", "{url: 'redis://A', password: of-A}", nil, []string{"--source", "unix://:of-B@/run/b"}, "", "of-B"},
		{"the environment", "{url: 'redis://A', password: of-A}", []string{"CROSSFADE_SOURCE=redis://:of-B@B"}, nil, "", "of-B"},
		{"the environment, and a password by a flag", "{url: 'redis://A', password: of-A}", []string{"CROSSFADE_SOURCE=redis://b:of-B@B"}, []string{"--source.password", "late"}, "b", "late"},
		{"a file beside it", "{url: 'redis://A', password: of-A}", nil, []string{"--source", "redis://b:of-B@B", "--source.password_file", secret}, "b", "of-A"},
		{"in one layer", "{url: 'redis://b:of-B@B', username: app, password: of-A}", nil, nil, "app", "of-A"},
		{"no login", "{url: 'redis://A', username: app, password: of-A}", nil, []string{"--source", "redis://B"}, "app", "of-A"},
		{"a user, for the password of before", "{url: 'redis://A', username: app, password: of-A}", nil, []string{"--source", "redis://b@B"}, "b", "of-A"},
	} {
		got, _, err := Load(append([]string{"--config", write(t, "source: "+c.file+"\ntarget: 'redis://T'")}, c.args...), c.env)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		e, err := got.Source.Endpoint()
		if err != nil || e.Username != c.user || e.Password != c.password {
			t.Errorf("%s: user %q, password %q, %v", c.name, e.Username, e.Password, err)
		}
	}
}
