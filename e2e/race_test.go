//go:build race

package e2e

// raceDetector says that the program under test is built with it too.
const raceDetector = true
