package e2e

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
)

const noScript = "-NOSCRIPT No matching script. Please use EVAL.\r\n"

func digest(body string) string {
	sum := sha1.Sum([]byte(body))
	return hex.EncodeToString(sum[:])
}

// library is a library of functions by its number.
func library(n int) string {
	return fmt.Sprintf(`#!lua name=lib%d
redis.register_function('add%d', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)
redis.register_function{function_name='look%d', callback=function(keys) return redis.call('GET', keys[1]) end, flags={'no-writes'}}`, n, n, n)
}

// scripters call scripts and functions that have come to the server in all ways, before,
// during and after both switches.
func scripters(a *act) {
	all := a.clients(rowSessions())
	body := func(i int) string { return fmt.Sprintf("-- %d\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])", i) }
	hidden := func(i int) string { return fmt.Sprintf("return %d", i) }
	past := a.direct()
	rounds := a.rounds(len(all))
	a.each(all, func(i int, p *peer) {
		switch i % 5 {
		case 0: // loaded, and not run before the switch
			p.want(bulk(digest(body(i))), "SCRIPT", "LOAD", body(i))
		case 1: // seen in EVAL only
			p.want(":1\r\n", "EVAL", body(i), "1", fmt.Sprintf("script:%d", i), "1")
		case 2: // loaded past the proxy, which cannot know it
			past.want(bulk(digest(hidden(i))), "SCRIPT", "LOAD", hidden(i))
			p.want(fmt.Sprintf(":%d\r\n", i), "EVALSHA", digest(hidden(i)), "0")
		case 3:
			p.want(bulk(fmt.Sprintf("lib%d", i)), "FUNCTION", "LOAD", library(i))
		case 4: // always at it
			a.helper(func() {
				n, sum := 0, digest(scriptOf)
				p.want(bulk(sum), "SCRIPT", "LOAD", scriptOf)
				a.paced(func() {
					n += 3
					p.want(fmt.Sprintf(":%d\r\n", n), "EVALSHA", sum, "1", fmt.Sprintf("script:%d", i), "3")
					rounds.add(i)
				})
			})
		}
	})
	for s := range 2 {
		a.next(all)
		a.each(all, func(i int, p *peer) {
			key := fmt.Sprintf("script:%d", i)
			if i%5 == 4 {
				return
			}
			p.want(noScript, "EVALSHA", digest(forgotten), "0")
			p.want(noScript, "EVALSHA", digest("nobody ever"), "0")
			switch i % 5 {
			case 0:
				p.want(fmt.Sprintf(":%d\r\n", s+1), "EVALSHA", strings.ToUpper(digest(body(i))), "1", key, "1")
			case 1:
				p.want(fmt.Sprintf(":%d\r\n", s+2), "EVALSHA", digest(body(i)), "1", key, "1")
			case 2:
				if s == 0 {
					p.want(noScript, "EVALSHA", digest(hidden(i)), "0")
					p.want(fmt.Sprintf(":%d\r\n", i), "EVAL", hidden(i), "0")
				}
				p.want(fmt.Sprintf(":%d\r\n", i), "EVALSHA", digest(hidden(i)), "0")
			case 3:
				p.want(fmt.Sprintf(":%d\r\n", 2*s+1), "FCALL", fmt.Sprintf("add%d", i), "1", key, "1")
				p.want(bulk(fmt.Sprint(2*s+1)), "FCALL_RO", fmt.Sprintf("look%d", i), "1", key)
				if s == 0 { // one that comes after the switch must be there on the way back
					p.want(bulk(fmt.Sprintf("lib%d", 1000+i)), "FUNCTION", "LOAD", library(1000+i))
					p.want(bulk(fmt.Sprintf("lib%d", i)), "FUNCTION", "LOAD", "REPLACE", library(i))
				} else {
					p.want(":4\r\n", "FCALL", fmt.Sprintf("add%d", 1000+i), "1", key, "1")
				}
				if s == 0 {
					p.want(":2\r\n", "FCALL", fmt.Sprintf("add%d", i), "1", key, "1")
				}
			}
		})
		rounds.goOn()
	}
	a.finish()
}
