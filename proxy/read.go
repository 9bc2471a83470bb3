package proxy

import (
	"hash/maphash"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// Which reads both servers can be asked and their replies compared, and how: by what
// is the same wherever the same data is. What depends on chance, on a server's own
// doings or on the order of a hash table (RANDOMKEY, SRANDMEMBER, OBJECT, DUMP, SCAN,
// DBSIZE, …) is not among them.

// A readForm says how the replies to a read are compared.
type readForm struct {
	how   comparison
	words int // how many the command may have; 0: any number
}

// comparison is what of two replies must be the same.
type comparison uint8

const (
	everyByte    comparison = iota
	anyOrder                // the elements, whatever their order
	pairsAnyWay             // the pairs of elements
	millisLeft              // a time, which has become less
	secondsLeft             // the same
	dateInMillis            // a date
	dateInSecond            // the same
)

// reads are the commands that can be asked twice. (XPENDING with a range tells how long entries have been idle.)
var reads = map[comparison]string{
	everyByte: `get getrange substr strlen getbit bitcount bitpos bitfield_ro digest mget exists lcs type
		hget hmget hexists hlen hstrlen hexpiretime hpexpiretime lindex llen lpos lrange
		scard sismember smismember sintercard zcard zcount zlexcount zmscore zscore zrank zrevrank zrange zrangebylex
		zrangebyscore zrevrange zrevrangebylex zrevrangebyscore zdiff zinter zintercard zunion
		geodist geohash geopos xlen xrange xrevrange xpending`,
	anyOrder:     "smembers sinter sunion sdiff hkeys hvals geosearch georadius_ro georadiusbymember_ro",
	pairsAnyWay:  "hgetall",
	millisLeft:   "pttl",
	secondsLeft:  "ttl",
	dateInMillis: "pexpiretime",
	dateInSecond: "expiretime",
}

// mostWords bounds the words of those that ask for something else with more of them.
var mostWords = map[string]int{"xpending": 3}

// readsOf puts the reads into the command table.
func readsOf(table map[string]*spec) {
	for how, names := range reads {
		for name := range strings.FieldsSeq(names) {
			if s := table[name]; s != nil {
				s.read = &readForm{how: how, words: mostWords[name]}
			}
		}
	}
}

// fits reports whether a command is a read of this form.
func (r *readForm) fits(args [][]byte) bool { return r.words == 0 || len(args) <= r.words }

// shape stands for a reply: two of the same shape tell a client the same. It has the
// same size whatever the reply's is.
type shape struct {
	sum    uint64 // of its bytes or elements
	number int64  // … or itself, of a time
	timed  bool
	failed bool
	kind   uint8 // of the error, as in errorNames
}

// shapeSeed makes it useless to look for two values of the same sum.
var shapeSeed = maphash.MakeSeed()

// shapeOf returns that of a whole reply.
func (c comparison) shapeOf(reply []byte) shape {
	if resp.IsError(reply) {
		var head replyHead
		head.begin(reply[0])
		head.add(reply)
		return shape{failed: true, kind: head.kind()}
	}
	switch c {
	case anyOrder:
		return shape{sum: sumOf(reply, 1)}
	case pairsAnyWay:
		return shape{sum: sumOf(reply, 2)}
	case millisLeft, secondsLeft, dateInMillis, dateInSecond:
		if text, _, ok := resp.Text(reply); ok && reply[0] == ':' {
			if n, ok := resp.Integer(text); ok {
				return shape{number: n, timed: true}
			}
		}
	}
	return shape{sum: maphash.Bytes(shapeSeed, reply)}
}

// sumOf is that of an aggregate's elements, so many at a time, in any order; what is
// none has the sum of its bytes.
func sumOf(reply []byte, each int) uint64 {
	whole := maphash.Bytes
	_, n, rest, ok := resp.Header(reply)
	if !ok || n < 0 {
		return whole(shapeSeed, reply)
	}
	sum := whole(shapeSeed, reply[:len(reply)-len(rest)])
	for ; n > 0; n -= each {
		at := 0
		for range each {
			k := elementSize(rest[at:])
			if k == 0 {
				return whole(shapeSeed, reply)
			}
			at += k
		}
		sum += whole(shapeSeed, rest[:at])
		rest = rest[at:]
	}
	return sum
}

// elementSize is that of the element that b begins with, 0 when it is not all there.
func elementSize(b []byte) int {
	if k := resp.Whole(b); k > 0 {
		return k
	}
	var f resp.Framer
	k, done, err := f.Feed(b)
	if !done || err != nil {
		return 0
	}
	return k
}

// timeSlack is by how many milliseconds expiries may differ, as with sync/verify.
const timeSlack = 5

// same reports whether two replies mean the same, the second of which came so much
// after the first was asked for.
func (c comparison) same(a, b shape, later time.Duration) bool {
	if !a.timed || !b.timed || a.number < 0 || b.number < 0 {
		return a == b
	}
	less := a.number - b.number
	switch c {
	case millisLeft:
		return less >= -timeSlack && less <= later.Milliseconds()+1+timeSlack
	case secondsLeft:
		return less >= -1 && less <= int64(later/time.Second)+1
	case dateInMillis:
		return less >= -timeSlack && less <= timeSlack
	}
	return less >= -1 && less <= 1
}

// tellsOfData reports whether a reply is about what the server holds, and not about
// what it allows, knows or is able to do at the moment. Of the errors only those are
// that say that a key is of another type, or has no such group.
func (s shape) tellsOfData() bool {
	return !s.failed || s.kind == errorIndex["WRONGTYPE"] || s.kind == errorIndex["NOGROUP"]
}
