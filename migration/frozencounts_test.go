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
	want := map[int]keyCount{0: {7, 1}, 3: {20, 8}, 11: {4, 2}}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
