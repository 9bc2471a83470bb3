package proxy

import (
	"fmt"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// onTarget is a world whose clients are on a target of 16 databases that has a tenant's key
// in database 5.
func onTarget(t *testing.T, dbs router.DBMap) *world {
	t.Helper()
	w := newWorldMapped(t, redistest.Start(t), redistest.Start(t), router.Route{Side: router.Target, Epoch: 1, Map: dbs})
	w.do(router.Target, 5, "SET", "tenant", "x")
	return w
}

func mapOf16(t *testing.T, pairs map[int]int) router.DBMap {
	t.Helper()
	m, err := router.NewDBMap(pairs)
	if err != nil {
		t.Fatal(err)
	}
	return m.Within(16)
}

func refusal(text string) string { return "-" + text + "\r\n" }

// A map that keeps all numbers and leaves databases out is one that scripts must not leave.
func TestScriptsStayInMappedDatabases(t *testing.T) {
	for name, pairs := range map[string]map[int]int{"same numbers": {0: 0, 3: 3}, "others": {0: 0, 3: 6}} {
		t.Run(name, func(t *testing.T) {
			w := onTarget(t, mapOf16(t, pairs))
			c := w.client()
			for _, body := range []string{
				"redis.call('select', 5) redis.call('set', 'lost', 1)",
				"redis.call('SET', KEYS[1], 1) return redis.call('MOVE', KEYS[1], 5)",
				"return redis.call('flushall')",
				"return redis.call('COPY', KEYS[1], 'lost', 'DB', 5)",
			} {
				c.want(fmt.Sprintf("EVAL \"%s\" 1 k", body), refusal(namesDatabase))
				c.want(fmt.Sprintf("EVAL_RO \"%s\" 1 k", body), refusal(namesDatabase))
				c.want(fmt.Sprintf("SCRIPT LOAD \"%s\"", body), refusal(namesDatabase))
				library := fmt.Sprintf("#!lua name=lib\\nredis.register_function('f', function(KEYS) %s end)", body)
				c.want(fmt.Sprintf("FUNCTION LOAD REPLACE \"%s\"", library), refusal(namesDatabase))
				c.want("FCALL f 1 k", "-ERR Function not found\r\n")
			}
			c.want("MULTI", ok)
			c.want("EVAL \"return redis.call('select', 5)\" 0", refusal(namesDatabase))
			c.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
			c.want("EVAL \"return redis.call('set', KEYS[1], 1)\" 1 k", ok)
			if n := fmt.Sprint(w.do(router.Target, 5, "DBSIZE")); n != "1" || w.do(router.Target, 5, "GET", "tenant") != "x" {
				t.Errorf("the tenant's database has %s keys, of which the tenant's is %v", n, w.do(router.Target, 5, "GET", "tenant"))
			}
		})
	}
}

// A script that was seen while clients were on the source is known by its digest.
func TestScriptSeenBeforeTheSwitchIsRefused(t *testing.T) {
	w := newWorld(t)
	w.dbs = mapOf16(t, map[int]int{0: 0})
	c := w.client()
	sum := c.do("SCRIPT LOAD \"return redis.call('select', 5)\"")
	c.want("EVALSHA "+sum[len("$40\r\n"):len(sum)-2]+" 0", ok)
	w.switchTo(router.Target)
	c.want("EVALSHA "+sum[len("$40\r\n"):len(sum)-2]+" 0", refusal(namesDatabase))
}

// Libraries that come as a dump are looked into.
func TestFunctionRestoreIsLookedInto(t *testing.T) {
	w := onTarget(t, mapOf16(t, map[int]int{0: 0}))
	dump := func(code string) string {
		if got := w.do(router.Source, 0, "FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nredis.register_function('f', function() "+code+" end)"); got != "lib" {
			t.Fatalf("loading: %v", got)
		}
		return w.do(router.Source, 0, "FUNCTION", "DUMP").(string)
	}
	w.do(router.Target, 0, "FUNCTION", "LOAD", "#!lua name=tenant\nredis.register_function('theirs', function() return 1 end)")
	c := w.client()
	restore := func(want string, args ...string) {
		t.Helper()
		c.write(words(append([]string{"FUNCTION", "RESTORE"}, args...)...))
		c.expect(want)
	}
	bad, good := dump("return redis.call('select', 5)"), dump("return 7")
	restore(refusal(namesDatabase), bad)
	restore(refusal(namesDatabase), bad, "REPLACE")
	restore(refusal(namesDatabase), bad, "FLUSH")
	restore(refusal(unreadDump), "nonsense that is long enough")
	restore("-ERR DUMP payload version or checksum are wrong\r\n", "nonsense")
	restore(ok, good, "REPLACE")
	c.want("FCALL f 0", ":7\r\n")
	c.want("FCALL theirs 0", ":1\r\n")
	c.want("FUNCTION DELETE lib", ok)
}

// What clients say outside of scripts keeps to the map as well, and so do notifications.
func TestCommandsStayInMappedDatabases(t *testing.T) {
	w := onTarget(t, mapOf16(t, map[int]int{0: 0, 3: 3}))
	w.do(router.Target, 0, "CONFIG", "SET", "notify-keyspace-events", "KEA")
	c, ears := w.client(), w.client()
	none := "-ERR Crossfade: database 5 is not in the database map\r\n"
	c.want("SET k 1", ok)
	c.want("SELECT 5", none)
	c.want("MOVE k 5", none)
	c.want("COPY k k2 DB 5", none)
	c.want("SWAPDB 0 5", none)
	c.want("SWAPDB 5 3", none)
	ears.want("PSUBSCRIBE __keyspace@*__:*", "*3\r\n$10\r\npsubscribe\r\n$16\r\n__keyspace@*__:*\r\n:1\r\n")
	ears.do("SUBSCRIBE __keyspace@5__:theirs")
	w.do(router.Target, 5, "SET", "theirs", "1")
	c.want("SET mine 1", ok)
	ears.expect("*4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@*__:*\r\n$19\r\n__keyspace@0__:mine\r\n$3\r\nset\r\n")
	c.want("FLUSHALL", ok)
	if w.do(router.Target, 5, "GET", "tenant") != "x" || fmt.Sprint(w.do(router.Target, 0, "DBSIZE")) != "0" {
		t.Error("FLUSHALL was not for the mapped databases")
	}
}

// Where all that the target has is mapped to itself, nothing is kept from anybody.
func TestWholeMapIsNotLookedAt(t *testing.T) {
	w := onTarget(t, router.Identity(16).Within(16))
	c := w.client()
	c.want("EVAL \"redis.call('select', 5) return redis.call('get', 'tenant')\" 0", bulk("x"))
	c.want("FUNCTION LOAD \"#!lua name=lib\\nredis.register_function('f', function() redis.call('select', 5) return redis.call('get', 'tenant') end)\"", bulk("lib"))
	c.want("FCALL f 0", bulk("x"))
	c.want("FUNCTION FLUSH", ok)
}
