package migration

import (
	"maps"
	"testing"
)

// Hashes go with their last field, so those with fields that expire count like keys that do:
// while writers are paused one server removes what is past its expiry, and the other does not.
func TestCountsTakeExpiringFields(t *testing.T) {
	got := countsIn("# Keyspace\r\ndb0:keys=7,expires=1,avg_ttl=0\r\n" + // up to Redis 7.2
		"db3:keys=20,expires=3,avg_ttl=9,subexpiry=5\r\n" +
		"db11:keys=4,expires=0,avg_ttl=0,keys_with_volatile_items=2\r\n" +
		"nonsense\r\n")
	want := map[int]keyCount{0: {7, 1, 0}, 3: {20, 3, 5}, 11: {4, 0, 2}}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Most hashes with such fields are there on both sides, and excuse none of the keys that lack.
func TestCountsExcuseWhatIsNotRemovedYet(t *testing.T) {
	for name, tt := range map[string]struct {
		s, t  keyCount
		slack int64
	}{
		"nothing expires":                      {keyCount{100, 0, 0}, keyCount{90, 0, 0}, 0},
		"keys do":                              {keyCount{100, 20, 0}, keyCount{90, 10, 0}, 20},
		"no hash was removed":                  {keyCount{100, 0, 80}, keyCount{50, 0, 80}, 8},
		"the source is behind":                 {keyCount{100, 0, 80}, keyCount{90, 0, 70}, 18},
		"the target is":                        {keyCount{90, 0, 70}, keyCount{100, 0, 80}, 18},
		"keys as well":                         {keyCount{100, 7, 80}, keyCount{90, 3, 78}, 17},
		"a target that does not count hashes":  {keyCount{100, 0, 80}, keyCount{20, 0, 0}, 80},
		"a source that does not":               {keyCount{20, 0, 0}, keyCount{100, 0, 80}, 80},
		"no more than there are":               {keyCount{100, 90, 90}, keyCount{5, 5, 5}, 100},
		"hashes that expire by both, anywhere": {keyCount{10, 10, 10}, keyCount{10, 10, 10}, 10},
	} {
		if got := tt.s.slack(tt.t); got != tt.slack {
			t.Errorf("%s: %d, want %d", name, got, tt.slack)
		}
	}
}
