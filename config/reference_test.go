package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	byPath := map[string]Setting{}
	for _, s := range Settings() {
		byPath[s.Path] = s
		if s.Text == "" || s.Kind == "" {
			t.Errorf("%s: nothing is said about it: %+v", s.Path, s)
		}
		if s.Flags[0] != s.Path || s.Env[0] != envName(s.Path) {
			t.Errorf("%s: its own name is not the first: %v %v", s.Path, s.Flags, s.Env)
		}
		if s.Choices != nil && !slices.Contains(s.Choices, s.Default) {
			t.Errorf("%s: the default %q is none of %v", s.Path, s.Default, s.Choices)
		}
		if strings.Contains(s.Text, "crossfade throttle") != (s.Live == "crossfade throttle") && s.Path != "sync.bytes_per_second" {
			t.Errorf("%s: %q, and yet %q", s.Path, s.Text, s.Live)
		}
	}
	if len(byPath) != len(newTree().keys) {
		t.Errorf("%d settings of %d keys", len(byPath), len(newTree().keys))
	}
	want := Setting{
		Path: "databases", Kind: "map", Flags: []string{"databases", "map"}, Env: []string{"CROSSFADE_DATABASES", "CROSSFADE_MAP"},
		Text: byPath["databases"].Text,
	}
	if got := byPath["databases"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for path, want := range map[string]string{
		"source.tls.ca_file": "the file is read again when it changes", "proxy.tls.client_ca_file": "the file is read again when it changes",
		"source.password_file": "", "shadow.percent": "crossfade shadow", "sync.workers": "",
	} {
		if got := byPath[path].Live; got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestChoices: the words that are offered are the words that are taken.
func TestChoices(t *testing.T) {
	for _, name := range []string{"client_auth", "min_version"} {
		if !slices.Equal(choices["admin.tls."+name], choices["proxy.tls."+name]) {
			t.Errorf("admin.tls.%s takes %v", name, choices["admin.tls."+name])
		}
	}
	if got, want := choices["proxy.tls.client_auth"], slices.Sorted(maps.Keys(clientAuths)); !slices.Equal(got, want) {
		t.Errorf("client_auth: %v, want %v", got, want)
	}
	if got, want := choices["proxy.tls.min_version"], slices.Sorted(maps.Keys(tlsVersions)); !slices.Equal(got, want) {
		t.Errorf("min_version: %v, want %v", got, want)
	}
	for path, words := range choices {
		for _, word := range append([]string{"nonsense"}, words...) {
			_, _, err := Load([]string{"--" + path, word}, nil)
			refused := err != nil && strings.Contains(err.Error(), path+": ") && strings.Contains(err.Error(), `"`+word+`"`)
			if !strings.Contains(path, ".tls") && refused != (word == "nonsense") {
				t.Errorf("%s: %s: %v", path, word, err)
			}
		}
	}
}
