package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

func TestPermissions(t *testing.T) {
	to := redistest.Start(t)
	all := "on >hidden ~* &* +@all "
	from := redistest.Start(t, redistest.WithACL(
		"dry "+all+"-dump -client|list -config|get",
		"tried "+all+"-acl -dump -client|list -restore",
		"keys on >hidden ~app:* ~crossfade:* &* +@all",
		"channels on >hidden ~* resetchannels &app:* +@all",
		"blind on >hidden ~* &* +@all -info",
		"none on >hidden"))
	tests := []struct {
		user  string
		check string
		words []string
	}{
		{"dry", "permissions", []string{"CLIENT|LIST CONFIG|GET DUMP", "ACL SETUSER dry +client|list +config|get +dump"}},
		{"tried", "permissions", []string{"CLIENT|LIST DUMP RESTORE", "ACL SETUSER tried +acl|dryrun +client|list +dump +restore", "the way back"}},
		{"keys", "permissions", []string{"only some keys", "ACL SETUSER keys '~*'"}},
		{"channels", "permissions", []string{"channels that are not permitted", "'&__keyevent@*__:*' '&__keyspace@*__:*'", "change notifications"}},
		{"blind", "permissions", []string{"INFO", "ACL SETUSER blind +info"}},
		{"none", "reach", []string{"may not even begin"}},
	}
	for _, test := range tests {
		env := environment(t, from, to)
		env.From = pool(t, from.Addr(), test.user, "hidden")
		findings := run(t, env, StageCheck, from, to)
		expect(t, findings, test.check, Fail, test.words...)
	}

	// Only what the way back needs: a warning.
	must(t, from.Client(0).Do(t.Context(), "ACL", "SETUSER", "oneway", "on", ">hidden", "~*", "&*", "+@all", "-restore").Err())
	env := environment(t, from, to)
	env.From = pool(t, from.Addr(), "oneway", "hidden")
	expect(t, run(t, env, StageCheck, from, to), "permissions", Warn, "RESTORE", "the way back")
}

// TestWorksWithout lets the server forbid what there is another way for.
func TestWorksWithout(t *testing.T) {
	without := []string{"DUMP", "PEXPIRETIME", "MEMORY", "OBJECT"}
	rules := "lean on >hidden ~* &* +@all -acl"
	var renamed []redistest.Option
	for _, command := range without {
		rules += " -" + strings.ToLower(command)
		renamed = append(renamed, redistest.WithRenamed(command, ""))
	}
	to := redistest.Start(t)
	by := map[string]*redistest.Server{"ACL": redistest.Start(t, redistest.WithACL(rules)), "rename-command": redistest.Start(t, renamed...)}
	for name, from := range by {
		env := environment(t, from, to)
		if name == "ACL" {
			env.From = pool(t, from.Addr(), "lean", "hidden")
		}
		must(t, from.Client(0).Set(t.Context(), "k", "v", 0).Err())
		findings := run(t, env, StageCheck, from, to)
		expect(t, findings, "permissions", Warn, "DUMP", "MEMORY|USAGE", "PEXPIRETIME", "the fast way to copy values", "finding big keys")
		expect(t, findings, "restore", Warn, "DUMP is not permitted", "command by command")
		expect(t, findings, "big-keys", Pass, `the largest of 1 key looked at`)
		for _, f := range findings {
			if f.Level == Fail && f.Check != "fence" {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

func TestRenamed(t *testing.T) {
	from, to := redistest.Start(t, redistest.WithRenamed("DUMP", "")), redistest.Start(t)
	findings := run(t, environment(t, from, to), StageCheck, from, to)
	expect(t, findings, "permissions", Warn, "renamed or switched off: DUMP")
}

func TestRole(t *testing.T) {
	master, other := redistest.Start(t), redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	replica := redistest.Start(t, redistest.WithConfig("replicaof", host, port))
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(replica.Client(0).Info(t.Context(), "replication").Val(), "master_link_status:up") &&
			strings.Contains(master.Client(0).Info(t.Context(), "replication").Val(), "connected_slaves:1")
	}, "replication is up")

	expect(t, run(t, environment(t, other, replica), StageCheck, other), "role", Fail, "target", "replica of "+master.Addr(), "REPLICAOF NO ONE")
	expect(t, run(t, environment(t, replica, other), StageCheck, other), "role", Warn, "source", "replica")
	expect(t, run(t, environment(t, replica, other), StageCutover, other), "role", Fail, "source", "replica")
	findings := run(t, environment(t, master, other), StageCheck, master, other)
	expect(t, findings, "role", Pass, "is a master with 1 replica")
	expect(t, findings, "replicas", Warn, "connected to its replica "+replica.Addr(), `user "default"`)
	for _, f := range findings {
		if f.Check == "clients" && strings.Contains(f.What, "replica") {
			t.Errorf("the replica is no client: %+v", f)
		}
	}
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	expect(t, run(t, environment(t, master, other), StageCheck, master, other), "replicas", Warn, "replica "+replica.Addr()+" cannot be fenced with it", "no answer within 2s", "replica-announce-ip")
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}

	// Who answers at the address that a replica tells may be somebody else.
	stranger := redistest.Start(t)
	_, theirs, _ := strings.Cut(stranger.Addr(), ":")
	redistest.Start(t, redistest.WithConfig("replicaof", host, port), redistest.WithConfig("replica-announce-ip", host), redistest.WithConfig("replica-announce-port", theirs))
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(master.Client(0).Info(t.Context(), "replication").Val(), "port="+theirs+",state=online")
	}, "the other one follows")
	findings = run(t, environment(t, master, other), StageCheck, master, other, stranger)
	expect(t, findings, "replicas", Warn, "replica "+stranger.Addr()+" cannot be fenced with it", "no replica of this master")
}

func TestCluster(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t, redistest.WithConfig("cluster-enabled", "yes"))
	expect(t, run(t, environment(t, from, to), StageCheck, from), "cluster", Fail, "target", "a node of a cluster", "redis+cluster://"+to.Addr())
}

func TestRestore(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	in := inspect(environment(t, from, to), StageCheck)
	checkReach(t.Context(), in)
	// An older server's refusal, in its words.
	f := restoreVerdict(in, 3, map[string]string{"hash": "ERR DUMP payload version or checksum are wrong"}, nil)
	if f.Level != Warn || !strings.Contains(f.What, "type hash") {
		t.Errorf("got %+v", f)
	}
	if f := restoreVerdict(in, 3, nil, []string{"set"}); f.Level != Fail {
		t.Errorf("got %+v", f)
	}
	// Other encodings of equal values are compared by what they hold.
	must(t, to.Client(0).ConfigSet(t.Context(), "hash-max-listpack-entries", "1").Err())
	must(t, to.Client(0).ConfigSet(t.Context(), "set-max-intset-entries", "1").Err())
	only(t, run(t, in.Env, StageCheck, from, to), "restore")

	must(t, to.Client(0).ConfigSet(t.Context(), "maxmemory", "1mb").Err())
	expect(t, run(t, in.Env, StageCheck, from, to), "restore", Fail, "out of memory")
}

func TestNotifications(t *testing.T) {
	to := redistest.Start(t)
	with := func(flags string) *redistest.Server {
		return redistest.Start(t, redistest.WithConfig(notifySetting, flags), redistest.WithRenamed("CONFIG", ""))
	}
	command := func(s *redistest.Server, flags string) string {
		host, port, _ := strings.Cut(s.Addr(), ":")
		return fmt.Sprintf("redis-cli -h %s -p %s CONFIG SET notify-keyspace-events %s", host, port, flags)
	}
	// CONFIG forbidden: only events count.
	silent := with("")
	expect(t, run(t, environment(t, silent, to), StageCheck, silent, to), "notifications", Fail, "no notifications arrive", command(silent, "KEA"))
	for _, flags := range []string{"KA", "EA", "Eg$lshzxet"} {
		s := with(flags)
		expect(t, run(t, environment(t, s, to), StageCheck, s, to), "notifications", Pass, "source", "not shown, but real events of all classes")
	}
	part := with("Kg$lshz")
	expect(t, run(t, environment(t, part, to), StageCheck, part, to), "notifications", Fail, "class tx", command(part, "KEA"))

	// CONFIG allowed.
	s := redistest.Start(t, redistest.WithConfig(notifySetting, "KAm"), redistest.WithACL("ro on >hidden ~* &* +@all -config|set"))
	env := environment(t, s, to)
	expect(t, run(t, env, StageCheck, s, to), "notifications", Pass, `"AKm"`, "real events came back")
	must(t, s.Client(0).ConfigSet(t.Context(), notifySetting, "Kxm").Err())
	expect(t, run(t, env, StageCheck, s, to), "notifications", Pass, "will be switched on", `"xKmA"`)
	env.SetNotifications = false
	expect(t, run(t, env, StageCheck, s, to), "notifications", Fail, "lacks g$lshzet", "CONFIG SET notify-keyspace-events KAm")
	env = environment(t, s, to)
	env.From = pool(t, s.Addr(), "ro", "hidden")
	expect(t, run(t, env, StageCheck, s, to), "notifications", Fail, "we may not change it", command(s, "KAm"))

	// The way back needs them at the target.
	env = environment(t, s, silent)
	expect(t, run(t, env, StageCheck, s, silent), "notifications", Fail, "target", "no notifications arrive")
	env.Unsafe = true
	expect(t, run(t, env, StageCheck, s, silent), "notifications", Warn, "target", "no way back")
}

func TestMissingFlags(t *testing.T) {
	tests := []struct{ have, missing, full string }{
		{"", "KEg$lshzxet", "KEA"},
		{"AKE", "", "AKE"},
		{"g$lshzxetK", "", "g$lshzxetK"},
		{"xE", "g$lshzet", "EA"},
		{"A", "KE", "KEA"},
		{"Kmn", "g$lshzxet", "KAmn"},
		{"Kd", "g$lshzxet", "KA"},
	}
	for _, test := range tests {
		if missing, full := missingFlags(test.have); missing != test.missing || full != test.full {
			t.Errorf("%q: got %q, %q, want %q, %q", test.have, missing, full, test.missing, test.full)
		}
	}
}

func TestFeedBuffer(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	must(t, from.Client(0).ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 1mb 0 0").Err())
	expect(t, run(t, environment(t, from, to), StageCheck, from, to), "notifications", Warn, "1.0 MB hard, none soft", "CONFIG SET client-output-buffer-limit")
}

func TestDatabases(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t, redistest.WithDatabases(4))
	ctx := t.Context()
	for i := range 7 {
		must(t, from.Client(7).Set(ctx, fmt.Sprint("key", i), "hidden", 0).Err())
	}
	env := environment(t, from, to)
	findings := run(t, env, StageCheck, from, to)
	expect(t, findings, "databases", Fail, "database 7 of the source holds 7 keys", `"key`, "--map 0=0,3=5,7=N", "--leave-out 7")
	expect(t, findings, "databases", Fail, "target", "has no database 5", `"databases 6"`)

	env = environment(t, from, redistest.Start(t))
	env.LeaveOut = []int{7}
	only(t, run(t, env, StageCheck, from), "databases")
	env.LeaveOut = nil
	must(t, from.Client(7).FlushDB(ctx).Err())
	must(t, from.Client(7).Set(ctx, "crossfade:heartbeat", 1, time.Minute).Err())
	only(t, Run(ctx, env, StageCheck), "databases") // keys of ours do not count
	must(t, from.Client(7).FlushDB(ctx).Err())

	far, err := router.NewDBMap(map[int]int{0: 0, 40: 1})
	must(t, err)
	env.Map = far
	expect(t, run(t, env, StageCheck, from), "databases", Fail, "source", "has no database 40")

	// A map that nobody gave.
	env = environment(t, from, to)
	env.Map, env.Explicit = router.Identity(16), false
	expect(t, run(t, env, StageCheck, from, to), "databases", Warn, "4 … 15", "they are empty")
	must(t, from.Client(9).Set(ctx, "a", "hidden", 0).Err())
	expect(t, run(t, env, StageCheck, from, to), "databases", Fail, "has no database 9,")

	// On the way back the target's other databases are none of our business.
	env = environment(t, from, redistest.Start(t))
	env.FromName, env.ToName = "target", "source"
	only(t, run(t, env, StageCutover, from), "databases")
}

func TestMemoryAndEviction(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	ctx := t.Context()
	must(t, from.Client(0).SetRange(ctx, "a", 20<<20, "x").Err())
	must(t, to.Client(0).ConfigSet(ctx, "maxmemory", "15mb").Err())
	env := environment(t, from, to)
	expect(t, run(t, env, StageCheck, from, to), "memory", Fail, "target", "below maxmemory 15.0 MB", "CONFIG SET maxmemory")
	must(t, to.Client(0).ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	expect(t, run(t, env, StageCheck, from, to), "eviction", Fail, "target", "allkeys-lru", "noeviction")
	must(t, to.Client(0).ConfigSet(ctx, "maxmemory", "31mb").Err())
	findings := run(t, env, StageCheck, from, to)
	expect(t, findings, "memory", Warn, "tight")
	expect(t, findings, "eviction", Warn, "tight")
	must(t, to.Client(0).ConfigSet(ctx, "maxmemory", "100mb").Err())
	findings = run(t, env, StageCheck, from, to)
	only(t, findings, "memory")
	only(t, findings, "eviction")

	must(t, from.Client(0).ConfigSet(ctx, "maxmemory", "100mb").Err())
	must(t, from.Client(0).ConfigSet(ctx, "maxmemory-policy", "volatile-ttl").Err())
	expect(t, run(t, env, StageCheck, from, to), "eviction", Warn, "source", "volatile-ttl", "removed on the target too")

	// What is there already needs no room again.
	must(t, to.Client(0).ConfigSet(ctx, "maxmemory", "30mb").Err())
	must(t, to.Client(0).SetRange(ctx, "a", 20<<20, "x").Err())
	env.Resumed = true
	only(t, run(t, env, StageCopy, from, to), "memory")
}

// A source that takes no write takes neither the heartbeat nor the journal.
func TestSourceIsFull(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	must(t, from.Client(0).ConfigSet(t.Context(), "maxmemory", "1").Err())
	env := environment(t, from, to)
	expect(t, run(t, env, StageCheck, from, to), "memory", Fail, "source", "at its maxmemory", "CONFIG SET maxmemory")
	expect(t, run(t, env, StageCutover, from, to), "memory", Fail, "source", "at its maxmemory", "CONFIG SET maxmemory")
	must(t, from.Client(0).ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	must(t, from.Client(0).ConfigSet(t.Context(), "maxmemory", "100mb").Err())
	only(t, run(t, env, StageCheck, from, to), "memory")
}

func TestForeignKeys(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	ctx := t.Context()
	must(t, to.Client(5).MSet(ctx, "a", "hidden", "b\n\x1b", "hidden").Err())
	must(t, to.Client(1).Set(ctx, "tenant", "hidden", 0).Err())
	env := environment(t, from, to)
	findings := run(t, env, StageCheck, from, to)
	expect(t, findings, "foreign-keys", Fail, "database 5 already holds 2 keys", `"b\n\x1b"`, "-n 5 FLUSHDB")
	for _, f := range findings {
		if strings.Contains(f.What, "tenant") {
			t.Errorf("database 1 is not ours to look at: %+v", f)
		}
	}
	env.Resumed = true
	only(t, run(t, env, StageCopy, from, to), "foreign-keys")
	must(t, to.Client(5).FlushDB(ctx).Err())
	must(t, to.Client(5).Set(ctx, "crossfade:record", "hidden", 0).Err())
	env.Resumed = false
	only(t, Run(ctx, env, StageCheck), "foreign-keys")
}

// What min-replicas-to-write refuses of a script is nothing before these versions: tried with
// 6.0.16, where EVAL writes behind it; the others are by the servers' source.
func TestMinReplicasRefusesScripts(t *testing.T) {
	for text, want := range map[string]bool{
		"redis_version:5.0.14": false, "redis_version:6.0.5": false, "redis_version:6.0.16": false, "redis_version:6.0.17": true,
		"redis_version:6.2.0": false, "redis_version:6.2.6": false, "redis_version:6.2.7": true, "redis_version:6.2.14": true,
		"redis_version:6.3.4": false, "redis_version:7.0.0": true, "redis_version:8.0.2": true, "": false,
		"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2": true,
	} {
		if got := parseInfo(text).refusesScripts(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// The level says what the server does: where a script can write behind F2, it is not F2.
func TestFenceLevelIsTrueOfScripts(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	env := environment(t, from, to)
	env.CreateUser = false
	level, reason, err := FenceLevel(t.Context(), env)
	must(t, err)
	c := from.Client(0)
	must(t, c.ConfigSet(t.Context(), "min-replicas-to-write", "3").Err())
	refused := c.Eval(t.Context(), "return redis.call('SET', KEYS[1], 'x')", []string{"k"}).Err() != nil
	if want := map[bool]string{true: "F2", false: "F1"}[refused]; level != want {
		t.Errorf("got %s: %s; a script is refused: %v", level, reason, refused)
	}
}

func TestClientsAndFence(t *testing.T) {
	from, to := redistest.Start(t, redistest.WithACL(
		"weak on >hidden ~* &* +@all -acl|setuser",
		"weaker on >hidden ~* &* +@all -acl|setuser -config|set",
		"shared on >hidden ~* &* +@all")), redistest.Start(t)
	ctx := t.Context()
	must(t, from.Client(0).Do(ctx, "CLIENT", "SETNAME", "worker-7").Err())
	env := environment(t, from, to)
	expect(t, run(t, env, StageCheck, from, to), "clients", Warn, "past the proxy", `name "worker-7"`, `user "default"`)

	level := func(env Env, want string, words ...string) {
		t.Helper()
		got, reason, err := FenceLevel(ctx, env)
		must(t, err)
		if got != want || !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(reason, w) }) {
			t.Errorf("got %s: %s; want %s with %q", got, reason, want, words)
		}
		nothingLeft(t, from)
	}
	level(env, "F3", "ACL SETUSER works")
	env.CreateUser = false
	level(env, "F2", "share the user default")
	env.From = pool(t, from.Addr(), "shared", "hidden")
	level(env, "F3", "ACL SETUSER works")
	must(t, from.ClientAs("shared", "hidden", 0).Ping(ctx).Err())
	level(env, "F2", "used by others too")

	env = environment(t, from, to)
	env.From = pool(t, from.Addr(), "weak", "hidden")
	level(env, "F2", "acl|setuser")
	expect(t, run(t, env, StageCutover, from, to), "fence", Warn, "no way back without F3", "+acl|setuser")

	env.From = pool(t, from.Addr(), "weaker", "hidden")
	level(env, "F1", "config|set")
	expect(t, run(t, env, StageCheck, from, to), "fence", Warn, "F1 only")
	expect(t, run(t, env, StageCutover, from, to), "fence", Fail, "past the proxy")
	env.Unsafe = true
	expect(t, run(t, env, StageCutover, from, to), "fence", Warn, "F1 only")
	env.Unsafe = false
	proxied(t, &env, from)
	expect(t, run(t, env, StageCutover, from), "fence", Warn, "nobody is connected past the proxy now")

	// The way back is fenced at the target.
	env = environment(t, to, from)
	env.To = pool(t, from.Addr(), "weak", "hidden")
	expect(t, run(t, env, StageCheck, from, to), "fence", Warn, "target", "for the way back only fence F2")
}

func TestBigKeysAndCommands(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	ctx := t.Context()
	must(t, from.Client(3).SetRange(ctx, "huge", 70<<20, "hidden").Err())
	must(t, from.Client(0).Eval(ctx, "return 1", nil).Err())
	must(t, from.Client(0).PFCount(ctx, "none").Err())
	must(t, from.Client(0).FlushDB(ctx).Err())
	env := environment(t, from, to)
	findings := run(t, env, StageCheck, from, to)
	expect(t, findings, "big-keys", Warn, `"huge" in database 3: string, `, "MB")
	expect(t, findings, "commands", Warn, "EVAL 1×", "SELECT")
	expect(t, findings, "commands", Warn, "PFCOUNT 1×", "no notification")
	expect(t, findings, "commands", Warn, "FLUSHDB 1×")
	env.Map = router.Identity(15).Within(16)
	expect(t, run(t, env, StageCheck, from, to), "commands", Warn, "EVAL 1×", "SELECT")
	env.Map = router.Identity(16).Within(16)
	for _, f := range run(t, env, StageCheck, from, to) {
		if strings.Contains(f.What, "EVAL") {
			t.Errorf("the numbers stay, scripts do not matter: %+v", f)
		}
	}
}

func TestFunctions(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	ctx := t.Context()
	library := func(name, function, does string) string {
		return "#!lua name=" + name + "\nredis.register_function('" + function + "', function() " + does + " end)"
	}
	must(t, from.Client(0).FunctionLoad(ctx, library("lib", "f", "return 1")).Err())
	env := environment(t, from, to)
	env.Map = router.Identity(16).Within(16)
	expect(t, run(t, env, StageCheck, from, to), "functions", Pass, "1 function library will")
	// Others' libraries are in the way by their names, and by those of their functions.
	must(t, to.Client(0).FunctionLoad(ctx, library("theirs", "f", "return 2")).Err())
	expect(t, run(t, env, StageCheck, from, to), "functions", Fail, `"f" (of "lib", there of "theirs")`, "FUNCTION DELETE")
	must(t, to.Client(0).FunctionFlush(ctx).Err())
	must(t, to.Client(0).FunctionLoad(ctx, library("lib", "g", "return 2")).Err())
	must(t, to.Client(0).FunctionLoad(ctx, library("theirs", "h", "return 2")).Err())
	expect(t, run(t, env, StageCheck, from, to), "functions", Fail, `"lib"`, "same name and other content", "FUNCTION DELETE")
	env.Resumed = true
	expect(t, run(t, env, StageCopy, from, to), "functions", Warn, `"lib"`)
	expect(t, run(t, env, StageCutover, from, to), "functions", Fail, `"lib"`)
	env.Brought = func(name string) bool { return name == "lib" }
	expect(t, run(t, env, StageCutover, from, to), "functions", Pass, "1 function library is carried over")
	// One that names databases stays where their numbers mean what it says.
	must(t, from.Client(0).FunctionLoad(ctx, library("leaves", "l", "redis.call('SELECT', 5)")).Err())
	expect(t, run(t, env, StageCheck, from, to), "functions", Pass, "2 function libraries are")
	env.Map = router.Identity(15).Within(16)
	expect(t, run(t, env, StageCheck, from, to), "functions", Warn, `"leaves"`, "not carried over")
	env.FromName, env.ToName, env.From, env.To = "target", "source", env.To, env.From
	env.Foreign = func(name string) bool { return name == "theirs" }
	expect(t, run(t, env, StageCutover, to, from), "functions", Pass, "1 function library of clients' is carried back")
}

func TestClock(t *testing.T) {
	in := &inspection{Env: Env{FromName: "source", ToName: "target"}}
	tests := []struct {
		ahead, doubt time.Duration
		level        Level
		words        string
	}{
		{time.Millisecond, time.Millisecond, Pass, "differ by 1ms"},
		{20 * time.Millisecond, 18 * time.Millisecond, Pass, "± 18ms"},
		{20 * time.Millisecond, time.Millisecond, Warn, "20ms ahead of that of the source: keys expire that much earlier"},
		{-3 * time.Second, time.Millisecond, Warn, "3s behind that of the source: keys with an expiry vanish that much later"},
	}
	for _, test := range tests {
		f := clockFinding(in, test.ahead, test.doubt)
		if f.Level != test.level || !strings.Contains(f.What, test.words) {
			t.Errorf("%v: got %+v", test.ahead, f)
		}
	}
}

func TestVersions(t *testing.T) {
	valkey := parseInfo("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\ndb0:keys=3,expires=1\r\n")
	if valkey.product() != "Valkey 8.1.1" || valkey.keyspace()[0] != 3 || valkey.compatible() != (version{7, 2, 4}) {
		t.Errorf("got %s, %v", valkey.product(), valkey.keyspace())
	}
	tests := []struct {
		from, to string
		level    Level
	}{
		{"redis_version:6.2.0", "redis_version:7.0.15", Pass},
		{"redis_version:7.0.15", "redis_version:6.2.0", Warn},
		{"redis_version:6.0.9", "redis_version:7.0.15", Warn},
		{"redis_version:4.0.9", "redis_version:7.0.15", Fail},
	}
	p := pool(t, "127.0.0.1:1", "", "")
	for _, test := range tests {
		in := &inspection{from: &server{pool: p, name: "source", up: true, info: parseInfo(test.from)}, to: &server{pool: p, name: "target", up: true, info: parseInfo(test.to)}}
		worst := Pass
		for _, f := range checkVersion(t.Context(), in) {
			if f.Level == Fail || f.Level == Warn && worst == Pass {
				worst = f.Level
			}
		}
		if worst != test.level {
			t.Errorf("%s → %s: got %s, want %s", test.from, test.to, worst, test.level)
		}
	}
}

func TestTable(t *testing.T) {
	got := Table([]Finding{
		{"reach", Pass, "it answers", ""},
		{"notifications", Fail, "a text that is long enough to be wrapped at forty-eight columns", "Switch them on:\nredis-cli -h a-host-with-a-long-name -p 6379 CONFIG SET notify-keyspace-events KEA"},
		{"a-very-long-check", Warn, "\x1b[31mred", "Do it."},
	}, 48)
	want := `pass  reach          it answers
FAIL  notifications  a text that is long enough
                     to be wrapped at
                     forty-eight columns
                     → Switch them on:
                       redis-cli -h a-host-with-a-long-name -p 6379 CONFIG SET notify-keyspace-events KEA
WARN  a-very-long-check [31mred
                     → Do it.
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A server that does not answer has not said that it allows less: taken for F2, a
// switch would be without a way back for a lost packet.
func TestFenceLevelUnanswered(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	env := environment(t, from, to)
	level, _, err := FenceLevel(t.Context(), env)
	if err != nil || level != "F3" {
		t.Fatal(level, err)
	}
	from.Kill()
	if level, reason, err := FenceLevel(t.Context(), env); err == nil {
		t.Errorf("a server that is away allows %q: %s", level, reason)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if level, reason, err := FenceLevel(ctx, env); err == nil {
		t.Errorf("one that was not asked allows %q: %s", level, reason)
	}
}
