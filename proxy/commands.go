package proxy

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/prefix"
)

// verb says what a session must know about a command. Everything that is not in
// the table is plain: forwarded and answered without a look.
type verb uint8

const (
	plain verb = iota
	vAuth
	vHello
	vSelect
	vClient
	vMulti
	vExec
	vDiscard
	vWatch
	vUnwatch
	vSubscribe
	vUnsubscribe
	vReset
	vQuit
	vRaw // MONITOR, SYNC, PSYNC: the connection becomes a stream
	vBlock
	vScan
	vFlushAll
	vFlushDB
	vSwapDB
	vMove
	vCopy
	vEval
	vEvalSHA
	vFcall
	vScript
	vFunction
	vSilent
	vReadonly
	vReadwrite
	vNoData   // plain, but allowed where the current database is not in the map
	vReplconf // what a replica says about its connection
)

// spec is a row of the command table.
type spec struct {
	name   string
	verb   verb
	block  blockForm
	cursor int  // index of the cursor argument of the SCAN family
	reads  bool // a read-only script, or a module's command that changes nothing
	set    byte // which set of subscriptions: channels, patterns, shard channels
	share  bool // may travel on a connection that others use too
	family family
	silent bool      // its keys may change without a notification
	writes bool      // it changes keys that can be told
	reply  replyForm // … and what its reply says of that
	// elements is nil for commands that do not name all elements of the key that they change.
	elements *elementForm
	read     *readForm // nil unless both servers can be asked it and compared
	// command says where its keys are; nil where nobody does, or where there are none.
	command *keyspec.Command
	form    prefix.Form // how it is said, and answered, where keys have a prefix
	unclear bool        // … which keys it has only the server knows
	whole   bool        // … it is about a database as a whole
	row     uint16      // its number in rows
}

// The sets of subscriptions.
const (
	channels byte = iota
	patterns
	shards
)

var table = func() map[string]*spec {
	m := make(map[string]*spec)
	add := func(s spec, names ...string) {
		for _, n := range names {
			row := s
			row.name = n
			m[n] = &row
		}
	}
	add(spec{verb: vAuth}, "auth")
	add(spec{verb: vHello}, "hello")
	add(spec{verb: vSelect}, "select")
	add(spec{verb: vClient}, "client")
	add(spec{verb: vMulti}, "multi")
	add(spec{verb: vExec}, "exec")
	add(spec{verb: vDiscard}, "discard")
	add(spec{verb: vWatch}, "watch")
	add(spec{verb: vUnwatch}, "unwatch")
	add(spec{verb: vSubscribe, set: channels}, "subscribe")
	add(spec{verb: vSubscribe, set: patterns}, "psubscribe")
	add(spec{verb: vSubscribe, set: shards}, "ssubscribe")
	add(spec{verb: vUnsubscribe, set: channels}, "unsubscribe")
	add(spec{verb: vUnsubscribe, set: patterns}, "punsubscribe")
	add(spec{verb: vUnsubscribe, set: shards}, "sunsubscribe")
	add(spec{verb: vReset}, "reset")
	add(spec{verb: vQuit}, "quit")
	add(spec{verb: vRaw}, "monitor", "sync", "psync")
	add(spec{verb: vBlock, block: blockForm{at: last, seconds: true}}, "blpop", "brpop", "blmove", "brpoplpush", "bzpopmin", "bzpopmax")
	add(spec{verb: vBlock, block: blockForm{at: first, seconds: true}}, "blmpop", "bzmpop")
	add(spec{verb: vBlock, block: blockForm{at: option}}, "xread")
	add(spec{verb: vBlock, block: blockForm{at: option}, silent: true}, "xreadgroup")
	add(spec{verb: vBlock, block: blockForm{at: last}}, "wait", "waitaof")
	add(spec{verb: vScan, cursor: 1}, "scan")
	add(spec{verb: vScan, cursor: 2}, "sscan", "hscan", "zscan")
	add(spec{verb: vFlushAll}, "flushall")
	add(spec{verb: vFlushDB}, "flushdb")
	add(spec{verb: vSwapDB}, "swapdb")
	add(spec{verb: vMove}, "move")
	add(spec{verb: vCopy}, "copy")
	add(spec{verb: vEval, silent: true}, "eval")
	add(spec{verb: vEval, reads: true}, "eval_ro")
	add(spec{verb: vEvalSHA, silent: true}, "evalsha")
	add(spec{verb: vEvalSHA, reads: true}, "evalsha_ro")
	add(spec{verb: vFcall, silent: true}, "fcall")
	add(spec{verb: vFcall, reads: true}, "fcall_ro")
	add(spec{verb: vScript}, "script")
	add(spec{verb: vFunction}, "function")
	add(spec{verb: vSilent, silent: true}, "xack", "xclaim", "xautoclaim", "xackdel", "xdelex")
	// They tell notifications, and not CLIENT TRACKING (t_stream.c calls no signalModifiedKey).
	add(spec{verb: vSilent, silent: true}, "xgroup", "xsetid")
	// Vector sets of Redis 8: its own type, but as silent as modules may be.
	add(spec{verb: vSilent, silent: true}, "vadd", "vrem", "vsetattr")
	add(spec{verb: vSilent, silent: true}, "pfcount")
	add(spec{verb: vReadonly}, "readonly")
	add(spec{verb: vReadwrite}, "readwrite")
	add(spec{verb: vNoData}, "ping", "echo", "command", "info", "config", "time", "acl", "publish", "spublish", "pubsub",
		"lastsave", "role", "latency", "slowlog", "module", "lolwut")
	add(spec{verb: vReplconf}, "replconf")
	// Nothing special, but known to leave nothing behind at the connection.
	add(spec{verb: plain}, "debug", "memory", "save", "bgsave", "bgrewriteaof", "shutdown", "failover", "replicaof", "slaveof",
		"cluster", "asking", "migrate", "xinfo", "pfdebug", "pfselftest", "restore-asking", "commandlog",
		"vcard", "vdim", "vemb", "vgetattr", "vinfo", "vismember", "vlinks", "vrandmember", "vsim")
	for _, name := range strings.Fields(shareable) {
		if m[name] == nil {
			add(spec{verb: plain}, name)
		}
		m[name].share = true
	}
	writersOf(m)
	elementsOf(m)
	readsOf(m)
	for name, s := range m {
		s.command = keyspec.Named(name)
	}
	formsOf(m)
	return m
}()

// shareable are the commands that neither depend on what a server knows about a
// connection besides its user, database and protocol, nor change that, nor block.
// What is not named here, modules' commands too, has a connection of its own.
const shareable = `
	append bitcount bitfield bitfield_ro bitop bitpos dbsize decr decrby del dump echo exists
	expire expireat expiretime geoadd geodist geohash geopos georadius georadius_ro georadiusbymember
	georadiusbymember_ro geosearch geosearchstore get getbit getdel getex getrange getset hdel hexists
	hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hset hsetnx hstrlen hvals
	hexpire hexpireat hexpiretime hgetdel hgetex hpersist hpexpire hpexpireat hpexpiretime hpttl hsetex httl
	incr incrby incrbyfloat keys lcs lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem
	lset ltrim mget mset msetnx msetex object persist pexpire pexpireat pexpiretime pfadd pfmerge ping psetex pttl
	publish randomkey rename renamenx restore rpop rpoplpush rpush rpushx sadd scard sdiff sdiffstore
	set setbit setex setnx setrange sinter sintercard sinterstore sismember smembers smismember smove sort
	sort_ro spop srandmember srem strlen sunion sunionstore substr time touch ttl type unlink
	delifeq delex digest
	xadd xdel xlen xpending xrange xrevrange xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard
	zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore
	zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore
	zrevrank zscore zunion zunionstore`

var plainSpec = &spec{unclear: true}

// modules are the commands of modules that are known to leave nothing behind at the
// connection: what their names begin with, up to the dot, or the whole names.
var modules = [...]string{"json.", "ft.", "bf.", "cf.", "cms.", "topk.", "tdigest.", "ts.", "graph.", "vrange"}

// mayTie reports whether a command is unknown to the point that it might tell the
// server something about the connection: who the client is, say.
func (s *spec) mayTie(word []byte) bool {
	if s.row != 0 {
		return false
	}
	if i := bytes.IndexByte(word, '.'); i >= 0 {
		word = word[:i+1]
	}
	return !slices.ContainsFunc(modules[:], func(name string) bool { return is(word, name) })
}

// lookup finds a command's row by its first word, in any case.
func lookup(word []byte) *spec {
	if len(word) > longestName {
		return plainSpec
	}
	name := fold(word)
	for i := name.slot(); ; i = (i + 1) % uint64(len(index)) {
		switch row := &index[i]; {
		case row.spec == nil:
			return plainSpec
		case row.name == name:
			return row.spec
		}
	}
}

// longestName is the length of the longestName name that lookup finds.
const longestName = 24

// folded is a word in which case makes no difference.
type folded struct{ a, b, c uint64 }

// fold sets the bit that tells small letters from capitals, in all bytes. Nothing
// but the other case becomes a letter by that, and an underscore only what no
// server has in a command's name.
func fold(word []byte) folded {
	const small = 0x2020202020202020
	if len(word) >= 8 {
		f := folded{a: binary.LittleEndian.Uint64(word) | small}
		if len(word) >= 16 {
			f.b, f.c = binary.LittleEndian.Uint64(word[8:])|small, short(word[16:])
		} else {
			f.b = short(word[8:])
		}
		return f
	}
	return folded{a: short(word)}
}

// short folds up to 8 bytes.
func short(word []byte) (v uint64) {
	for i := len(word) - 1; i >= 0; i-- {
		v = v<<8 | uint64(word[i]|0x20)
	}
	return v
}

func (f *folded) slot() uint64 {
	return (f.a*0x9e3779b97f4a7c15 ^ f.b*0xc2b2ae3d27d4eb4f ^ f.c*0x165667b19e3779f9) >> 54
}

// index is the table in the form in which lookup needs it: a hash table of a
// quarter's load, because every command of every client comes here.
var index = func() (rows [1024]struct {
	name folded
	spec *spec
}) {
	for name, s := range table {
		f := fold([]byte(name))
		i := f.slot()
		for rows[i].spec != nil {
			i = (i + 1) % uint64(len(rows))
		}
		rows[i].name, rows[i].spec = f, s
	}
	return rows
}()

// touchesData reports whether a command depends on the current database.
func (s *spec) touchesData() bool {
	switch s.verb {
	case plain, vWatch, vBlock, vScan, vFlushDB, vMove, vCopy, vEval, vEvalSHA, vFcall, vSilent, vMulti:
		return true
	}
	return false
}

// forAnybody reports whether a server obeys a command of who has yet to
// authenticate.
func (s *spec) forAnybody() bool {
	switch s.verb {
	case vAuth, vHello, vReset, vQuit:
		return true
	}
	return false
}

// endsScripts reports whether a command may be one that a server obeys while it runs a
// script, whatever the database.
func (s *spec) endsScripts() bool {
	return s.verb == vScript || s.verb == vFunction || s.name == "shutdown"
}

// waits reports whether a command is WAIT or WAITAOF.
func (s *spec) waits() bool { return s.name == "wait" || s.name == "waitaof" }

func is(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}

// keys appends where the keys of a command are.
func (s *spec) keys(dst []keyspec.Key, args [][]byte) []keyspec.Key {
	if s.command == nil {
		return dst
	}
	return s.command.Keys(dst, args)
}

// keysIn returns the keys of a command that become one of these.
func (s *spec) keysIn(args [][]byte, use keyspec.Use) (keys []string) {
	for _, k := range s.keys(nil, args) {
		if k.Use&use != 0 {
			keys = append(keys, string(args[k.At]))
		}
	}
	return keys
}

// anyUse is for all keys of a command.
const anyUse = keyspec.RO | keyspec.Writes
