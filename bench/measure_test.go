package main

import "testing"

func TestReadTakesTheColumnsByName(t *testing.T) {
	list, err := read([]byte(`"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","1000.50","0.3","0.1","0.25","0.4","0.75","1.0"
"LPUSH (needed)","2000","0.3","0.1","0.5","0.4","1.5","1.0"
`))
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if want := (named{"SET", figures{1000.5, 0.25, 0.75}}); list[0] != want {
		t.Errorf("read %v, not %v", list[0], want)
	}
	for _, text := range []string{"", "Could not connect\n", "\"test\",\"rps\"\n\"SET\",\"1\"\n", "\"test\",\"rps\",\"p50_latency_ms\",\"p99_latency_ms\"\n\"SET\",\"fast\",\"1\",\"1\"\n"} {
		if list, err := read([]byte(text)); err == nil {
			t.Errorf("%q was read as %v", text, list)
		}
	}
}

func TestMedian(t *testing.T) {
	rate := func(f figures) float64 { return f.rate }
	for want, rates := range map[float64][]float64{0: nil, 3: {3}, 2: {9, 1, 2}, 2.5: {4, 1, 2, 3}} {
		var list []figures
		for _, r := range rates {
			list = append(list, figures{rate: r})
		}
		if got := median(list, rate); got != want {
			t.Errorf("median of %v is %v, not %v", rates, got, want)
		}
	}
}
