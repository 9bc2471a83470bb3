package dirty

import (
	"hash/maphash"
	"time"
)

// store holds keys under small numbers. A million keys of 20 bytes cost it some 60
// MB and the garbage collector nothing, as there is hardly a pointer in it; a map of
// strings costs twice that. Not for concurrent use.
type store struct {
	seed  maphash.Seed
	clock func() uint32 // milliseconds since some beginning
	n     int           // keys that are there
	bytes int64         // of their names
	index []uint32      // open addressing: number+1, 0 where nothing is; a power of two long
	pages []*page       // entries, by number
	free  []uint32      // numbers that are free again
	used  uint32        // numbers that were ever given
	blobs []*blob       // keys' bytes
	spare []uint32      // blobs without a key
	open  int           // the blob that keys are added to; -1: none
	room  int64         // bytes that the blobs take
	hands []uint32      // numbers of the keys in hand, in no order
}

type entry struct {
	hash      uint32
	blob      uint32
	off, size uint32
	since     uint32 // by clock: when it was first marked, or claimed
	again     uint32 // when it was first marked while in hand, of a stale key
	pos       uint32 // in hands, of a key in hand
	state     keyState
}

const (
	pageSize = 1024
	blobSize = 64 << 10
)

type page [pageSize]entry

// blob holds keys' bytes one after the other. It is used anew when none of its keys
// is left: keys leave about in the order in which they came. Those that stay for long, as big
// ones do, would keep one each in the end: see compact.
type blob struct {
	b    []byte
	live int
}

func newStore() store {
	base := time.Now()
	clock := func() uint32 { return uint32(time.Since(base).Milliseconds()) }
	return store{seed: maphash.MakeSeed(), clock: clock, index: make([]uint32, 64), open: -1}
}

func (s *store) at(id uint32) *entry { return &s.pages[id/pageSize][id%pageSize] }

// key returns a key's bytes, which are the store's.
func (s *store) key(id uint32) []byte {
	e := s.at(id)
	return s.blobs[e.blob].b[e.off : e.off+e.size]
}

// find returns the number of a key.
func (s *store) find(key string) (id uint32, hash uint32, ok bool) {
	hash = uint32(maphash.String(s.seed, key))
	mask := uint32(len(s.index) - 1)
	for i := hash & mask; s.index[i] != 0; i = (i + 1) & mask {
		id := s.index[i] - 1
		if s.at(id).hash == hash && string(s.key(id)) == key {
			return id, hash, true
		}
	}
	return 0, hash, false
}

// add adds a key that is not there.
func (s *store) add(key string, hash uint32, state keyState) uint32 {
	if 4*(s.n+1) > 3*len(s.index) {
		s.resize(2 * len(s.index))
	}
	var id uint32
	if last := len(s.free) - 1; last >= 0 {
		id, s.free = s.free[last], s.free[:last]
	} else {
		if id = s.used; id/pageSize == uint32(len(s.pages)) {
			s.pages = append(s.pages, new(page))
		}
		s.used++
	}
	e := s.at(id)
	*e = entry{hash: hash, size: uint32(len(key)), since: s.clock()}
	e.blob, e.off = s.write(key)
	e.state = state // only now: its name is where compact would look for it
	s.put(id, hash)
	s.n++
	s.bytes += int64(len(key))
	return id
}

func (s *store) put(id, hash uint32) {
	mask := uint32(len(s.index) - 1)
	i := hash & mask
	for s.index[i] != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = id + 1
}

func (s *store) resize(n int) {
	old := s.index
	s.index = make([]uint32, n)
	for _, ref := range old {
		if ref != 0 {
			s.put(ref-1, s.at(ref-1).hash)
		}
	}
}

// write stores a key's bytes.
func (s *store) write(key string) (at, off uint32) {
	if s.open >= 0 && len(s.blobs[s.open].b)+len(key) > cap(s.blobs[s.open].b) && s.room > 2*s.bytes+spareRoom {
		s.compact()
	}
	if s.open < 0 || len(s.blobs[s.open].b)+len(key) > cap(s.blobs[s.open].b) {
		s.open = s.empty(len(key))
	}
	b := s.blobs[s.open]
	off = uint32(len(b.b))
	b.b = append(b.b, key...)
	b.live++
	return uint32(s.open), off
}

// spareRoom is how much the blobs may take besides twice the bytes of the names that are there.
const spareRoom = 4 << 20

// compact puts the names that are there into blobs of their own, and forgets the others.
func (s *store) compact() {
	old := s.blobs
	s.blobs, s.spare, s.open, s.room = nil, nil, -1, 0
	for id := range s.used {
		if e := s.at(id); e.state != 0 {
			e.blob, e.off = s.write(string(old[e.blob].b[e.off : e.off+e.size]))
		}
	}
}

// empty returns a blob with room for n bytes.
func (s *store) empty(n int) int {
	if s.open >= 0 && s.blobs[s.open].live == 0 { // its keys are gone, and nobody noted it while it was open
		s.drop(uint32(s.open))
	}
	if last := len(s.spare) - 1; last >= 0 {
		i := int(s.spare[last])
		s.spare = s.spare[:last]
		if b := s.blobs[i]; b.b == nil || n > cap(b.b) {
			s.room += int64(max(n, blobSize) - cap(b.b))
			b.b = make([]byte, 0, max(n, blobSize))
		}
		return i
	}
	s.room += int64(max(n, blobSize))
	s.blobs = append(s.blobs, &blob{b: make([]byte, 0, max(n, blobSize))})
	return len(s.blobs) - 1
}

// keptBlobs is how many blobs without keys keep their memory.
const keptBlobs = 64

func (s *store) drop(i uint32) {
	b := s.blobs[i]
	if b.b = b.b[:0]; cap(b.b) > blobSize || len(s.spare) >= keptBlobs {
		s.room -= int64(cap(b.b))
		b.b = nil
	}
	s.spare = append(s.spare, i)
}

// remove takes a key out.
func (s *store) remove(id uint32) {
	e := s.at(id)
	mask := uint32(len(s.index) - 1)
	i := e.hash & mask
	for s.index[i] != id+1 {
		i = (i + 1) & mask
	}
	// Those behind it must be found without passing an empty place (Knuth, 6.4 R).
	for j := i; ; {
		j = (j + 1) & mask
		if s.index[j] == 0 {
			break
		}
		if home := s.at(s.index[j]-1).hash & mask; (j-home)&mask >= (j-i)&mask {
			s.index[i] = s.index[j]
			i = j
		}
	}
	s.index[i] = 0
	b := s.blobs[e.blob]
	if b.live--; b.live == 0 && int(e.blob) != s.open {
		s.drop(e.blob)
	}
	s.bytes -= int64(e.size)
	*e = entry{}
	s.free = append(s.free, id)
	if s.n--; s.n == 0 {
		s.shrink()
	}
}

// shrink gives back what a time of many keys has left behind. Nothing is there.
func (s *store) shrink() {
	if s.used > 64*pageSize {
		seed, clock := s.seed, s.clock
		*s = newStore()
		s.seed, s.clock = seed, clock
	}
}

// take puts a key in hand; release takes it out again.
func (s *store) take(id uint32) {
	e := s.at(id)
	e.state, e.pos = held, uint32(len(s.hands))
	s.hands = append(s.hands, id)
}

func (s *store) release(id uint32) {
	last := len(s.hands) - 1
	pos := s.at(id).pos
	s.hands[pos] = s.hands[last]
	s.at(s.hands[pos]).pos = pos
	s.hands = s.hands[:last]
}
