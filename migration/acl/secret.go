package acl

import "regexp"

var hashes = regexp.MustCompile(`[<>!#]?[0-9a-fA-F]{64}`)

// redacted takes out of a text what may be a password's hash: servers repeat in their
// refusals what they were sent.
func redacted(text string) string { return hashes.ReplaceAllString(text, "***") }
