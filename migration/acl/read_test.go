package acl

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
)

const hash = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4"

func anyList(texts ...string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}

// TestParse reads what servers of several versions have said, in both protocols.
func TestParse(t *testing.T) {
	pw := []config.Secret{hash}
	all := []string{"&*"}
	for name, c := range map[string]struct {
		reply any
		want  User
	}{
		"6.0": {
			[]any{"flags", anyList("on"), "passwords", anyList(hash), "commands", "-@all +@read -keys +select|0 +config|get", "keys", anyList("a:*", "b")},
			User{On: true, Passwords: pw, Root: Rules{Keys: []string{"~a:*", "~b"}, Channels: all, Commands: []string{"-@all", "+@read", "-keys", "+select|0", "+config|get"}}},
		},
		"6.0, all": {
			[]any{"flags", anyList("on", "allkeys", "allcommands", "nopass"), "passwords", []any{}, "commands", "+@all", "keys", anyList("*")},
			User{On: true, NoPass: true, Root: Rules{Keys: []string{"~*"}, Channels: all, Commands: []string{"+@all"}}},
		},
		"6.2": {
			[]any{"flags", anyList("off", "sanitize-payload"), "passwords", []any{}, "commands", "-@all +ping", "keys", []any{}, "channels", anyList("news:*", "x")},
			User{Root: Rules{Channels: []string{"&news:*", "&x"}, Commands: []string{"-@all", "+ping"}}},
		},
		"6.2, RESP3": {
			map[any]any{"flags": anyList("on", "allkeys", "allchannels", "allcommands", "skip-sanitize-payload"), "passwords": anyList(hash), "commands": "+@all", "keys": anyList("*"), "channels": anyList("*")},
			User{On: true, TrustsPayloads: true, Passwords: pw, Root: Rules{Keys: []string{"~*"}, Channels: all, Commands: []string{"+@all"}}},
		},
		"7.0": {
			[]any{"flags", anyList("on"), "passwords", anyList(hash), "commands", "-@all +@read +select|0 -keys", "keys", "~a:* %R~b:*", "channels", "&ch",
				"selectors", []any{[]any{"commands", "-@all", "keys", "", "channels", ""}, []any{"commands", "-@all +publish", "keys", "", "channels", "&q"}}},
			User{On: true, Passwords: pw, Root: Rules{Keys: []string{"~a:*", "%R~b:*"}, Channels: []string{"&ch"}, Commands: []string{"-@all", "+@read", "+select|0", "-keys"}},
				Selectors: []Rules{{Commands: []string{"-@all"}}, {Channels: []string{"&q"}, Commands: []string{"-@all", "+publish"}}}},
		},
		"7.0, RESP3": {
			map[any]any{"flags": map[any]any{"on": true, "nopass": true}, "passwords": []any{}, "commands": "+@all -@dangerous", "keys": "~*", "channels": "&*",
				"selectors": []any{map[any]any{"commands": "-@all +GET", "keys": "%W~x~y %R~x~y ~z", "channels": ""}}},
			User{On: true, NoPass: true, Root: Rules{Keys: []string{"~*"}, Channels: all, Commands: []string{"+@all", "-@dangerous"}},
				Selectors: []Rules{{Keys: []string{"~x~y", "~z"}, Commands: []string{"-@all", "+get"}}}},
		},
		"valkey 9.1": {
			[]any{"flags", anyList("off"), "passwords", []any{}, "commands", "-@all +get", "keys", "~x", "channels", "", "databases", "db=3,1",
				"selectors", []any{[]any{"commands", "-@all +set", "keys", "~q", "channels", "", "databases", "alldbs"}}},
			User{Root: Rules{Keys: []string{"~x"}, Commands: []string{"-@all", "+get"}, Databases: []int{1, 3}, Limited: true},
				Selectors: []Rules{{Keys: []string{"~q"}, Commands: []string{"-@all", "+set"}}}},
		},
		"one to come": {
			[]any{"flags", anyList("on", "sleepy"), "passwords", []any{}, "commands", "-@all", "keys", "~x ?y", "channels", "", "hours", "9-17"},
			User{On: true, Root: Rules{Keys: []string{"~x"}, Commands: []string{"-@all"}}, Odd: []string{"?y", "hours", "sleepy"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse("app", c.reply)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Name = "app"
			if diff := cmp.Diff(c.want, got, cmp.Transformer("nil", func(l []string) string { return strings.Join(l, " ") })); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	for _, wrong := range []any{nil, "OK", []any{}, []any{"flags"}, []any{"flags", anyList("on")}, 5} {
		if _, err := parse("app", wrong); err == nil {
			t.Errorf("%v is taken for a user", wrong)
		}
	}
}

// TestSecrets: no hash is printed, whatever is printed and however.
func TestSecrets(t *testing.T) {
	u, err := parse("app", []any{"flags", anyList("on"), "passwords", anyList(hash), "commands", "+@all", "keys", "~*", "channels", "&*"})
	if err != nil {
		t.Fatal(err)
	}
	p := Plan{Steps: []Step{step(expressed{user: u}, User{}, false, Catalog{}, false)}}
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v", u, u, u), fmt.Sprintf("%v %+v %#v", p, p, p), p.Text(80),
		redacted("ERR Error in ACL SETUSER modifier '#" + hash + "': no"), told("x", errors.New("ERR '>"+hash+"'")).Error(),
	} {
		if strings.Contains(text, hash) || strings.Contains(text, hash[:20]) {
			t.Errorf("a hash in %s", text)
		}
	}
	if words := u.setWords(Known{}); words[2] != "#"+hash {
		t.Errorf("the server is told %q", words)
	}
}

// TestNoACL: an old server, or one where ACL has another name.
func TestNoACL(t *testing.T) {
	c := redistest.Start(t, redistest.WithRenamed("ACL", "")).Client(0)
	if _, _, err := Read(t.Context(), c); !errors.Is(err, ErrNoACL) {
		t.Errorf("without ACL: %v", err)
	}
}

// TestNotAllowed names the command.
func TestNotAllowed(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("weak on >secret ~* &* +@all -acl|getuser", "reads on >secret ~* &* +@all -acl|setuser"))
	if _, _, err := Read(t.Context(), s.ClientAs("weak", "secret", 0)); err == nil || !strings.Contains(err.Error(), "NOPERM") || !strings.Contains(err.Error(), "ACL GETUSER") {
		t.Errorf("without GETUSER: %v", err)
	}
	if _, err := Look(t.Context(), s.ClientAs("reads", "secret", 0), nil); err == nil || !strings.Contains(err.Error(), "NOPERM") || !strings.Contains(err.Error(), "ACL SETUSER") {
		t.Errorf("without SETUSER: %v", err)
	}
}
