package spread

import "strings"

type entry struct {
	Row
	subs map[string]Row
}

// bySlot are the commands whose keys must be in one slot. A server answers CROSSSLOT where
// they are not, and so does who stands before the cluster.
const bySlot = `
	append bitcount bitfield bitfield_ro bitop bitpos copy decr decrby delex delifeq digest dump
	expire expireat expiretime pexpire pexpireat pexpiretime persist pttl ttl type
	geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore
	get getbit getdel getex getrange getset incr incrby incrbyfloat lcs set setbit setex psetex setnx setrange strlen substr
	hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals
	hexpire hexpireat hexpiretime hgetdel hgetex hpersist hpexpire hpexpireat hpexpiretime hpttl hsetex httl
	lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim rpop rpoplpush rpush rpushx
	pfadd pfcount pfmerge rename renamenx restore sort sort_ro msetnx msetex move
	sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove spop srandmember srem sscan sunion sunionstore
	vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrem vsetattr vsim
	xack xackdel xadd xautoclaim xclaim xdel xdelex xlen xpending xrange xrevrange xsetid xtrim
	zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember
	zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore
	zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore
	spublish`

// Reasons. Each is the whole error.
const (
	standalone = "ERR This instance has cluster support disabled"
	ofOne      = "ERR Crossfade: this is about one server's process, and behind this address are those of a Redis Cluster: ask its nodes"
	noStream   = "ERR Crossfade: the target is a Redis Cluster, which has no one stream of all commands: ask its nodes"
	noKeyspace = "ERR Crossfade: the target is a Redis Cluster, whose nodes manage their replication themselves"
	noACL      = "ERR Crossfade: users of a Redis Cluster are set on each of its nodes, replicas included"
	noModule   = "ERR Crossfade: modules of a Redis Cluster are loaded on each of its nodes"
	noClients  = "ERR Crossfade: behind this address are the nodes of a Redis Cluster, each of which has its own clients: ask them"
	noMigrate  = "ERR Crossfade: behind this address is a Redis Cluster, which moves its keys between its nodes itself"
	noSwap     = "ERR SWAPDB is not allowed in cluster mode"
)

var rows = func() map[string]*entry {
	m := make(map[string]*entry)
	add := func(row Row, names string) {
		for name := range strings.FieldsSeq(names) {
			m[name] = &entry{Row: row}
		}
	}
	// sub gives subcommands rows; the command's own row holds for all others.
	sub := func(command string, row Row, names string) {
		e := m[command]
		if e.subs == nil {
			e.subs = make(map[string]Row)
		}
		for name := range strings.FieldsSeq(names) {
			e.subs[name] = row
		}
	}
	slot, anyone, here := Row{Way: Slot}, Row{Way: Any}, Row{Way: Here}
	all := func(m Merge) Row { return Row{Way: Masters, Merge: m} }
	no := func(why string) Row { return Row{Way: Refused, Why: why} }

	add(slot, bySlot)
	add(Row{Way: Slot, Blocks: LastSeconds}, "blpop brpop blmove brpoplpush bzpopmin bzpopmax")
	add(Row{Way: Slot, Blocks: FirstSeconds}, "blmpop bzmpop")
	add(Row{Way: Slot, Blocks: OptionMillis}, "xread xreadgroup")
	add(Row{Way: Split, Merge: InOrder}, "mget")
	add(Row{Way: Split, Merge: First}, "mset")
	add(Row{Way: Split, Merge: Sum}, "del unlink exists touch")

	// Keys at the second word behind the name, or none at all: HELP.
	add(anyone, "object xgroup xinfo memory")
	sub("object", slot, "encoding freq idletime refcount")
	sub("object", anyone, "help")
	sub("xgroup", slot, "create createconsumer delconsumer destroy setid")
	sub("xgroup", anyone, "help")
	sub("xinfo", slot, "consumers groups stream")
	sub("xinfo", anyone, "help")
	sub("memory", slot, "usage")
	sub("memory", anyone, "help")
	sub("memory", all(First), "purge")
	sub("memory", no(ofOne), "doctor malloc-stats stats")

	// Scripts go by their keys; without any, to any master.
	add(here, "eval evalsha eval_ro evalsha_ro")
	add(here, "fcall fcall_ro")
	add(anyone, "script function")
	sub("script", here, "load flush")
	sub("script", all(And), "exists")
	sub("script", all(One), "kill")
	sub("script", all(First), "debug")
	sub("script", anyone, "help show")
	sub("function", all(First), "load delete flush restore")
	sub("function", all(One), "kill")
	sub("function", anyone, "list dump stats help")

	// About all keys.
	add(here, "scan randomkey")
	add(no("ERR Crossfade: CLUSTERSCAN is for clients that know of a cluster"), "clusterscan")
	add(all(Concat), "keys")
	add(all(Sum), "dbsize")
	add(all(First), "flushdb flushall")
	add(no(noSwap), "swapdb")

	// What a connection remembers.
	add(anyone, "select")
	add(here, "auth hello reset quit multi exec discard watch unwatch client")
	sub("client", here, `id getname setname setinfo no-evict no-touch reply info tracking trackinginfo caching getredir
		unblock capa import-source list kill`)
	sub("client", anyone, "help")
	sub("client", all(First), "pause unpause")
	add(no(standalone), "readonly readwrite asking cluster")

	// Publish and subscribe: all clients meet at one master, as they would on one server.
	add(here, "subscribe unsubscribe psubscribe punsubscribe ssubscribe sunsubscribe")
	add(Row{Way: Hub}, "publish")
	add(anyone, "pubsub")
	sub("pubsub", all(Union), "channels")
	sub("pubsub", all(Heard), "numsub")
	sub("pubsub", all(Sums), "shardnumsub")
	sub("pubsub", all(Concat), "shardchannels")
	sub("pubsub", Row{Way: Hub}, "numpat")
	sub("pubsub", anyone, "help")

	// The server itself.
	add(anyone, "echo time command lolwut")
	sub("command", anyone, "docs getkeys getkeysandflags count info help list")
	add(here, "ping info role")
	add(Row{Way: Here, Blocks: LastMillis}, "wait waitaof")
	add(all(First), "save bgsave bgrewriteaof")
	add(all(Least), "lastsave")
	add(anyone, "config")
	sub("config", anyone, "get help")
	sub("config", all(First), "set resetstat rewrite")
	add(anyone, "slowlog commandlog")
	for _, log := range []string{"slowlog", "commandlog"} {
		sub(log, all(Sum), "len")
		sub(log, all(First), "reset")
		sub(log, all(Concat), "get")
		sub(log, anyone, "help")
	}
	add(no(ofOne), "latency debug shutdown pfdebug pfselftest")
	sub("latency", anyone, "help")
	sub("latency", all(Sum), "reset")
	sub("debug", anyone, "help sleep jmap")
	sub("debug", here, "object sdslen ziplist listpack quicklist htstats-key digest-value")
	add(anyone, "acl")
	sub("acl", anyone, "cat dryrun genpass getuser help list users whoami")
	sub("acl", no(noACL), "deluser load log save setuser")
	add(no(noModule), "module")
	sub("module", anyone, "list help")
	add(no(noStream), "monitor sync psync")
	add(no(noKeyspace), "replicaof slaveof failover replconf")
	add(no(noMigrate), "migrate restore-asking")

	for command, names := range map[string]string{
		"latency": "doctor graph histogram history latest",
		"module":  "load loadex unload",
		"cluster": `addslots addslotsrange bumpepoch cancelslotmigrations count-failure-reports countkeysinslot delslots
			delslotsrange failover flushslot flushslots forget getkeysinslot getslotmigrations help info keyslot links meet
			migrateslots myid myshardid nodes replicas replicate reset saveconfig set-config-epoch setslot shards slaves
			slot-stats slots syncslots`,
	} {
		sub(command, m[command].Row, names)
	}
	return m
}()
