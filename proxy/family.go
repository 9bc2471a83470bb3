package proxy

import "strings"

// family is a group of commands that the proxy keeps numbers of. What is not in
// the table, modules' commands too, is of no other family.
type family uint8

const (
	fOther family = iota
	fStringRead
	fStringWrite
	fHash
	fList
	fSet
	fZset
	fStream
	fPubsub
	fScript
	fTransaction
	fBlocking // whatever may wait in the server, so that its waiting is in nobody else's numbers
	fKeys
	fConnection
	fServer

	families // how many there are
)

// String returns the name that numbers go by. The names are stable.
func (f family) String() string { return familyNames[f] }

var familyNames = [families]string{"other", "string_read", "string_write", "hash", "list", "set", "zset", "stream", "pubsub",
	"script", "transaction", "blocking", "keys", "connection", "server"}

// members are the commands of the families, as far as they are in the table. XREAD
// and XREADGROUP are of the streams and count as blocking when they block.
var members = [families]string{
	fStringRead: "get mget getrange substr strlen lcs getbit bitcount bitpos bitfield_ro pfcount digest",
	fStringWrite: `set mset msetnx msetex setnx setex psetex setrange append getset getdel getex delex delifeq
		incr incrby incrbyfloat decr decrby setbit bitop bitfield pfadd pfmerge`,
	fHash: `hget hmget hgetall hkeys hvals hlen hexists hstrlen hrandfield hscan hset hmset hsetnx hdel hincrby hincrbyfloat
		hexpire hexpireat hexpiretime hpersist hpexpire hpexpireat hpexpiretime httl hpttl hgetdel hgetex hsetex`,
	fList: "lindex llen lpos lrange linsert lmove lmpop lpop lpush lpushx lrem lset ltrim rpop rpoplpush rpush rpushx",
	fSet: `scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember sadd smove spop srandmember
		srem sscan sunion sunionstore`,
	fZset: `zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore zpopmax zpopmin
		zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore
		zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore
		geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore
		vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrem vsetattr vsim`,
	fStream: `xadd xdel xdelex xlen xpending xrange xrevrange xtrim xread xreadgroup xack xackdel xclaim xautoclaim
		xgroup xinfo xsetid`,
	fPubsub:      "publish spublish pubsub subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe",
	fScript:      "eval eval_ro evalsha evalsha_ro fcall fcall_ro script function",
	fTransaction: "multi exec discard watch unwatch",
	fBlocking:    "blpop brpop blmove brpoplpush blmpop bzpopmin bzpopmax bzmpop wait waitaof",
	fKeys: `copy del dump exists expire expireat expiretime keys migrate move object persist pexpire pexpireat pexpiretime pttl
		randomkey rename renamenx restore restore-asking scan sort sort_ro touch ttl type unlink`,
	fConnection: "auth hello select client quit reset readonly readwrite asking ping echo",
	fServer: `monitor sync psync flushall flushdb swapdb dbsize command info config time acl lastsave role latency slowlog
		module lolwut debug memory save bgsave bgrewriteaof shutdown failover replicaof slaveof cluster replconf
		pfdebug pfselftest commandlog`,
}

// rows are the rows of the table by their number. The first one stands for what is
// not in it.
var rows = func() []*spec {
	list := []*spec{plainSpec}
	for f, names := range members {
		for _, name := range strings.Fields(names) {
			if s := table[name]; s != nil {
				s.family, s.row = family(f), uint16(len(list))
				list = append(list, s)
			}
		}
	}
	return list
}()
