package proxy

import (
	"encoding/binary"
	"strings"

	"github.com/crossfade/crossfade/internal/keyspec"
)

// Write is what the proxy knows of a key after a command was answered.
type Write struct {
	DB int // the client's
	// Key belongs to whoever calls. nil stands for keys that the proxy cannot tell:
	// those of scripts, of modules' commands, and of more than it keeps in mind.
	Key []byte
	// Command is its name in lower case.
	Command string
	// Sure says that the server has changed the key, so that a keyspace notification
	// of it is due. Without it the key may be as it was.
	Sure bool
}

// WriteObserver is an Observer that also wants to hear of the writes that keyspace
// notifications do tell. Wrote is called with many at a time, after their replies,
// by several goroutines; it must not block or keep the slice. What is in flight
// when WantsWrites begins to be true may be missing.
type WriteObserver interface {
	WantsWrites() bool
	Wrote(writes []Write)
}

// replyForm says when a reply proves a change, and when that nothing has changed.
type replyForm uint8

const (
	mayChange      replyForm = iota // it tells nothing
	okChanges                       // OK proves it
	anyChanges                      // all but an error proves it
	countChanges                    // a positive number proves it, 0 is nothing
	countMayChange                  // a positive number proves it, 0 tells nothing
	someChanges                     // nil or empty is nothing, all else proves it
)

// writers are the commands that change keys, by what their replies tell. (Server
// sources: what calls notifyKeyspaceEvent, and when.)
var writers = map[replyForm]string{
	okChanges:  "set setex psetex mset hmset lset",
	anyChanges: "hset incr incrby incrbyfloat decr decrby lpush rpush hincrby hincrbyfloat getset",
	countChanges: `del unlink sadd srem hdel expire expireat pexpire pexpireat persist setnx hsetnx lpushx rpushx
		linsert lrem zrem zremrangebylex zremrangebyrank zremrangebyscore xdel xtrim msetnx pfadd`,
	countMayChange: "zadd geoadd sinterstore sunionstore sdiffstore zinterstore zunionstore zdiffstore zrangestore geosearchstore",
	someChanges:    "spop lpop rpop getdel xadd zpopmin zpopmax lmove rpoplpush",
	mayChange: `append setbit zincrby setrange ltrim bitop getex bitfield restore pfmerge hexpire hpexpire hexpireat hpexpireat
		hpersist hgetdel hgetex hsetex delex delifeq rename renamenx smove lmpop zmpop msetex sort georadius georadiusbymember
		blpop brpop bzpopmin bzpopmax blmove brpoplpush blmpop bzmpop
		move copy migrate restore-asking xgroup xsetid xack xclaim xautoclaim xackdel xdelex`,
}

// writersOf puts the writers into the command table.
func writersOf(table map[string]*spec) {
	for reply, names := range writers {
		for name := range strings.FieldsSeq(names) {
			if s := table[name]; s != nil {
				s.writes, s.reply = true, reply
			}
		}
	}
}

// proves says what the beginning of a reply means: whether keys may have changed,
// and whether one has for certain.
func (r replyForm) proves(head [4]byte) (may, sure bool) {
	positive := head[0] == ':' && head[1] >= '1' && head[1] <= '9'
	zero := head[0] == ':' && head[1] == '0'
	// An empty string is something, an empty array is not.
	nothing := head[0] == '_' || head[0] != ':' && (head[1] == '-' || head[1] == '0' && head[0] != '$')
	switch {
	case head[0] == '-', head[0] == '!', head[0] == 0:
		return head[0] == 0, false
	case r == okChanges:
		return true, head[0] == '+'
	case r == anyChanges:
		return true, true
	case r == countChanges:
		return !zero, positive
	case r == countMayChange:
		return true, positive
	case r == someChanges:
		return !nothing, !nothing && head[1] != 0 // its length may not have come yet
	}
	return true, false
}

const (
	mostKept  = 1 << 20         // bytes of keys in flight that are kept for one connection
	mostFound = 1 << 10         // places of them that are kept room for
	unkept    = uint32(1) << 31 // a command whose keys are not
)

// keptKeys are those of the writes in flight on one connection, oldest first. The
// zero value is ready.
type keptKeys struct {
	b     []byte // each with its length before it
	head  int
	found []keyspec.Key // of the command in hand
}

// keep remembers the keys that a command may change and returns what take wants. Where
// not all of its words have come, whole is false.
func (k *keptKeys) keep(sp *spec, args [][]byte, whole bool) uint32 {
	if len(k.b)-k.head > mostKept || sp.command == nil {
		return unkept
	}
	if whole {
		k.found = sp.command.Keys(k.found[:0], args)
	} else {
		var all bool
		if k.found, all = sp.command.Head(k.found[:0], args); !all {
			return unkept
		}
	}
	if k.head == len(k.b) {
		k.b, k.head = k.b[:0], 0
	} else if k.head > 64<<10 && k.head > len(k.b)/2 {
		k.b = append(k.b[:0], k.b[k.head:]...)
		k.head = 0
	}
	from := len(k.b)
	for _, key := range k.found {
		if key.Use&keyspec.Writes != 0 {
			k.b = binary.LittleEndian.AppendUint32(k.b, uint32(len(args[key.At])))
			k.b = append(k.b, args[key.At]...)
		}
	}
	if cap(k.found) > mostFound {
		k.found = nil
	}
	return uint32(len(k.b) - from)
}

// drop forgets what the last keep has kept.
func (k *keptKeys) drop(n uint32) { k.b = k.b[:len(k.b)-int(n&^unkept)] }

// take returns the oldest n bytes, which stay as they are until the next keep.
func (k *keptKeys) take(n uint32) []byte {
	b := k.b[k.head : k.head+int(n)]
	k.head += int(n)
	if k.head == len(k.b) && cap(k.b) > mostKept/4 {
		k.b, k.head = nil, 0
	}
	return b
}

// written gathers writes to hand them over together. The zero value is ready.
type written struct {
	list []writtenKey
	keys []byte
	out  []Write
}

type writtenKey struct {
	db       int
	row      uint16
	sure     bool
	unknown  bool
	from, to int // in keys
}

// mostWritten is how many are handed over at a time.
const mostWritten = 4096

// answered adds what a command has written whose reply begins with head. kept is
// what was kept of its keys.
func (w *written) answered(db int, c call, kept []byte, head [4]byte) {
	sp := rows[c.row]
	if !sp.writes || c.keys == unkept {
		w.list = append(w.list, writtenKey{db: db, row: c.row, unknown: true})
		return
	}
	may, sure := sp.reply.proves(head)
	if !may {
		return
	}
	if sure && sp.reply == countChanges && len(kept) > 4 && int(binary.LittleEndian.Uint32(kept))+4 < len(kept) {
		sure = false // it does not say which of them
	}
	for len(kept) >= 4 { // the key may be ""
		n := int(binary.LittleEndian.Uint32(kept)) + 4
		from := len(w.keys)
		w.keys = append(w.keys, kept[4:n]...)
		w.list = append(w.list, writtenKey{db: db, row: c.row, sure: sure, from: from, to: len(w.keys)})
		kept = kept[n:]
	}
}

// handOver passes on what was gathered.
func (w *written) handOver(to WriteObserver) {
	if len(w.list) == 0 {
		return
	}
	w.out = w.out[:0]
	for _, k := range w.list {
		one := Write{DB: k.db, Command: rows[k.row].name, Sure: k.sure}
		if !k.unknown {
			if one.Key = w.keys[k.from:k.to:k.to]; one.Key == nil {
				one.Key = []byte{} // nil is for one that is unknown
			}
		}
		w.out = append(w.out, one)
	}
	to.Wrote(w.out)
	w.list, w.keys = w.list[:0], w.keys[:0]
	if cap(w.keys) > mostKept {
		*w = written{}
	}
}

// headOf returns the first bytes of a reply, as far as they have come.
func headOf(b []byte) (head [4]byte) {
	copy(head[:], b)
	return head
}

// mayWrite says whether a command that is not among the writers may change keys
// that nobody can name.
func (s *spec) mayWrite() bool {
	switch s.verb {
	case vEval, vEvalSHA, vFcall:
		return !s.reads
	}
	return s.row == 0 && !s.reads
}
