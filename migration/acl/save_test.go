package acl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSave: where users are kept, they are there after a restart.
func TestSave(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users.acl")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	source := redistest.Start(t, redistest.WithACL("app on >pw ~a:* +get"))
	for want, c := range map[string]struct {
		options []redistest.Option
		persist bool
	}{
		InFile:   {[]redistest.Option{redistest.WithConfig("aclfile", file)}, false},
		InConfig: {nil, true},
		Nowhere:  {nil, false},
	} {
		t.Run(want, func(t *testing.T) {
			target := redistest.Start(t, c.options...)
			to := target.Client(0)
			apply(t, to, planOf(t, source.Client(0), to, Options{}))
			config := filepath.Join(target.Dir(), "redis.conf")
			before, _ := os.ReadFile(config)
			got, err := (Writer{Client: to}).Save(t.Context(), c.persist)
			if err != nil || got != want {
				t.Fatalf("kept %s, %v", got, err)
			}
			after, _ := os.ReadFile(config)
			if want != InConfig && string(before) != string(after) {
				t.Error("the configuration file was written")
			}
			kept, _ := os.ReadFile(file)
			if in := strings.Contains(string(kept), "user app on "); want == InFile && !in {
				t.Errorf("the aclfile: %s", kept)
			}
			if in := strings.Contains(string(after), "user app on "); in != (want == InConfig) {
				t.Errorf("in the configuration file: %v", in)
			}
		})
	}
}

// TestSaveForbidden is told, by the command.
func TestSaveForbidden(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("admin on >pw ~* +@all -acl|save", "half on >pw ~* +@all -config|rewrite"))
	if _, err := (Writer{Client: s.ClientAs("admin", "pw", 0)}).Save(t.Context(), false); err == nil || !strings.Contains(err.Error(), "ACL SAVE") {
		t.Errorf("without ACL SAVE: %v", err)
	}
	if _, err := (Writer{Client: s.ClientAs("half", "pw", 0)}).Save(t.Context(), true); err == nil || !strings.Contains(err.Error(), "CONFIG REWRITE") {
		t.Errorf("without CONFIG REWRITE: %v", err)
	}
}
