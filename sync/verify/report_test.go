package verify

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

func TestClears(t *testing.T) {
	then := time.Now()
	before := Report{Began: then, Ended: then.Add(time.Second), Complete: true, Sample: .5, Differing: 2, Repaired: 1, Databases: []Database{{
		Differing: 2, Repaired: 1, Examples: []Example{{Key: "mended", Kind: value.Value, Repaired: true}, {Key: "k", Kind: value.Value}, {Key: "u", Kind: value.Unsure}},
	}}}
	unsure := func(keys ...Key) func(*Report) {
		return func(r *Report) {
			r.Undecided = int64(len(keys))
			d := Database{}
			for _, k := range keys {
				d.Examples = append(d.Examples, Example{Key: k, Kind: value.Unsure})
			}
			r.Databases = []Database{d}
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
		"found some":                   {func(r *Report) { r.Differing = 1 }, false},
		"found and mended some":        {func(r *Report) { r.Differing, r.Repaired = 3, 3 }, true},
		"could not tell about another": {unsure("other", "mended", "u"), true},
		"could not tell about it":      {unsure("other", "k"), false},
		"not all are named":            {func(r *Report) { unsure("other")(r); r.Undecided = 2 }, false},
	} {
		r := Report{Began: then.Add(2 * time.Second), Complete: true, Sample: 1}
		c.change(&r)
		if got := r.Clears(before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	many := before
	many.Differing = 500
	r := Report{Began: then.Add(2 * time.Second), Complete: true, Sample: 1}
	if unsure("other")(&r); r.Clears(many) {
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
