package verify

import (
	"encoding/json"
	"testing"
	"time"
)

func TestSupersedes(t *testing.T) {
	then := time.Now()
	before := Report{Began: then, Ended: then.Add(time.Second), Complete: true, Sample: .5, Differing: 2, Repaired: 1, Databases: []Database{{
		Differing: 2, Repaired: 1, left: map[Key]bool{"k": true}, unclear: map[Key]bool{"u": true},
	}}}
	unsure := func(keys ...Key) func(*Report) {
		return func(r *Report) {
			r.Undecided = int64(len(keys))
			d := Database{unclear: make(map[Key]bool)}
			for _, k := range keys {
				d.unclear[k] = true
			}
			r.Databases = []Database{d}
		}
	}
	moves := func(keys ...Key) func(*Report) {
		return func(r *Report) {
			unsure(keys...)(r)
			r.Undecided, r.Moving = 0, r.Undecided
		}
	}
	for name, c := range map[string]struct {
		change func(*Report)
		want   bool
	}{
		"all keys, later":              {func(*Report) {}, true},
		"a sample":                     {func(r *Report) { r.Sample = .99 }, false},
		"broken off":                   {func(r *Report) { r.Complete = false }, false},
		"begun before the other's end": {func(r *Report) { r.Began = then.Add(time.Second / 2) }, false},
		"found some":                   {func(r *Report) { r.Differing = 1 }, true},
		"found and mended some":        {func(r *Report) { r.Differing, r.Repaired = 3, 3 }, true},
		"could not tell about another": {unsure("other", "mended", "u"), true},
		"could not tell about it":      {unsure("other", "k"), false},
		"another one moves":            {moves("other"), true},
		"it moves":                     {moves("k"), false},
		"not all are named":            {func(r *Report) { unsure("other")(r); r.Undecided = 2 }, false},
	} {
		r := Report{Began: then.Add(2 * time.Second), Complete: true, Sample: 1}
		c.change(&r)
		if got := r.Supersedes(before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	many := before
	many.Differing = 500
	r := Report{Began: then.Add(2 * time.Second), Complete: true, Sample: 1}
	if unsure("other")(&r); r.Supersedes(many) {
		t.Error("only one of many was named, and any may be undecided now")
	}
}

func TestNamesOfKeys(t *testing.T) {
	for name, want := range map[Key]string{
		"plain": `"plain"`, "": `""`, "ключ": `"ключ"`, "a\nb\x00": `"a\nb\u0000"`,
		"\xff\x01":     `"\"\\xff\\x01\""`,
		"é\xfe":        `"\"\\xc3\\xa9\\xfe\""`,
		`"quoted"`:     `"\"\\\"quoted\\\"\""`,
		"back\\\xff\"": `"\"back\\\\\\xff\\\"\""`,
	} {
		text, err := json.Marshal(name)
		if err != nil || string(text) != want {
			t.Errorf("%q: %s, %v", string(name), text, err)
		}
		var back Key
		if err := json.Unmarshal(text, &back); err != nil || back != name {
			t.Errorf("%s is read as %q, %v", text, string(back), err)
		}
	}
	var k Key
	if err := json.Unmarshal([]byte(`"\"open"`), &k); err == nil {
		t.Errorf("read as %q", string(k))
	}
}
