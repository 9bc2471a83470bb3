// Package slot computes which of a Redis Cluster's slots a key belongs to.
// It owns the rule and its table.
// It never knows which server has a slot: that is internal/cluster.
package slot

import "sync"

// Count is how many slots a cluster has.
const Count = 16384

// Of returns the slot of a key, below Count: that of its hash tag where it has one.
func Of[K ~string | ~[]byte](key K) uint16 {
	from, to := 0, len(key)
	if f, t, ok := tag(key); ok {
		from, to = f, t
	}
	var crc uint16
	for i := from; i < to; i++ {
		crc = crc<<8 ^ table[byte(crc>>8)^key[i]]
	}
	return crc % Count
}

// Tag returns a short text that is in a slot: a key with that in braces, and no brace before
// it, is there.
func Tag(slot uint16) string { return tags()[slot] }

// tags are the first texts of lower-case letters that come to lie in each slot.
var tags = sync.OnceValue(func() *[Count]string {
	all, found := new([Count]string), 0
	text := []byte("a")
	for found < Count {
		if at := Of(text); all[at] == "" {
			all[at] = string(text)
			found++
		}
		text = following(text)
	}
	return all
})

// following counts up: a to z, then aa.
func following(text []byte) []byte {
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] != 'z' {
			text[i]++
			return text
		}
		text[i] = 'a'
	}
	return append(text, 'a')
}

// tag returns where the hash tag of a key is: what stands between the first { and the first }
// behind it, unless that is nothing.
func tag[K ~string | ~[]byte](key K) (from, to int, ok bool) {
	for i := range len(key) {
		if key[i] != '{' {
			continue
		}
		for j := i + 1; j < len(key); j++ {
			if key[j] == '}' {
				return i + 1, j, j > i+1
			}
		}
		return 0, 0, false
	}
	return 0, 0, false
}

// table is that of CRC16/XMODEM: polynomial 1021, nothing reflected, first value 0.
var table = func() (t [256]uint16) {
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		t[i] = crc
	}
	return t
}()
