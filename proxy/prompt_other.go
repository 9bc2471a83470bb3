//go:build !linux

package proxy

func prompt() {}
