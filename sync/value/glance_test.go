package value

import "testing"

func TestGlanceSeesEnds(t *testing.T) {
	src, dst := two(t)
	all := plant(t, src)
	if out, err := new(Batch).Copy(t.Context(), src, dst, keysOf(all)); err != nil {
		t.Fatal(out, err)
	}
	want := func(key string, kind Kind) {
		t.Helper()
		if d, err := Glance(t.Context(), src, dst, key); err != nil || d.Kind != kind {
			t.Errorf("%q: %+v, %v; want %q", key, d, err, kind)
		}
	}
	for _, f := range all {
		want(f.key, Same)
	}
	for key, kind := range map[string]Kind{"l": Value, "s": Value, "z": Value, "x": Value, "e": Expiry, "t": Type, "m": Missing, "o": Extra, "h": Value} {
		run(t, src, "DEL", key)
		switch key {
		case "l":
			run(t, src, "RPUSH", key, 1, 2)
			run(t, dst, "RPUSH", key, 1, 3)
		case "s":
			run(t, src, "SET", key, "ab")
			run(t, dst, "SET", key, "ac")
		case "z":
			run(t, src, "ZADD", key, 1, "a")
			run(t, dst, "ZADD", key, 1.5, "a")
		case "x":
			run(t, src, "XADD", key, "1-1", "a", 1)
			run(t, dst, "XADD", key, "1-1", "a", 2)
		case "e":
			run(t, src, "SET", key, 1, "EX", 100)
			run(t, dst, "SET", key, 1)
		case "t":
			run(t, src, "SET", key, 1)
			run(t, dst, "RPUSH", key, 1)
		case "m":
			run(t, src, "SET", key, 1)
		case "o":
			run(t, dst, "SET", key, 1)
		case "h":
			run(t, src, "HSET", key, "a", 1)
			run(t, dst, "HSET", key, "a", 1, "b", 1)
		}
		want(key, kind)
	}
}
