// Sends events to `beammeter serve` and tells how long its answers took.
//
//	KEY=... load -address 127.0.0.1:8080 -events 100 -rate 200 -connections 16 -seconds 10
//
// With a rate, requests are due at fixed times and a free connection sends the next one that is
// due. Its time counts from when it was due, so an answer that is late makes all those late that
// had to wait for it (no coordinated omission). Without a rate each connection sends its next
// request when it has the answer. Answers within the first `-warm` seconds are not counted.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

var (
	address     = flag.String("address", "127.0.0.1:8080", "where the server listens")
	events      = flag.Int("events", 1, "events of a request")
	rate        = flag.Float64("rate", 0, "requests a second; 0: as many as are answered")
	connections = flag.Int("connections", 32, "connections that are open")
	seconds     = flag.Float64("seconds", 10, "how long it is measured")
	warm        = flag.Float64("warm", 3, "seconds before it is measured")
)

type result struct {
	Requests int64   `json:"requests"`
	Wrong    int64   `json:"wrong"`
	PerSec   float64 `json:"requests_per_second"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	P999     float64 `json:"p999_ms"`
	Most     float64 `json:"most_ms"`
}

func main() {
	flag.Parse()
	key := os.Getenv("KEY")
	begin := time.Now().Add(100 * time.Millisecond)
	from := begin.Add(time.Duration(*warm * float64(time.Second)))
	until := from.Add(time.Duration(*seconds * float64(time.Second)))
	var number, wrong atomic.Int64
	var all []time.Duration
	var guard sync.Mutex
	var group sync.WaitGroup
	for range *connections {
		group.Add(1)
		go func() {
			defer group.Done()
			link, err := net.Dial("tcp", *address)
			if err != nil {
				panic(err)
			}
			defer link.Close()
			answers := bufio.NewReader(link)
			time.Sleep(time.Until(begin))
			var took []time.Duration
			var packet []byte
			for {
				turn := number.Add(1) - 1
				due := time.Now()
				if *rate > 0 {
					due = begin.Add(time.Duration(float64(turn) / *rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if due.After(until) {
					break
				}
				packet = request(packet[:0], key, turn)
				status := exchange(link, answers, packet)
				if status != http.StatusAccepted {
					wrong.Add(1)
				}
				if due.After(from) {
					took = append(took, time.Since(due))
				}
			}
			guard.Lock()
			all = append(all, took...)
			guard.Unlock()
		}()
	}
	group.Wait()
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(share float64) float64 {
		return float64(all[min(len(all)-1, int(share*float64(len(all))))].Microseconds()) / 1000
	}
	found := result{int64(len(all)), wrong.Load(), float64(len(all)) / *seconds, at(0.5), at(0.99), at(0.999), at(1)}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		panic(err)
	}
}

// request writes a whole request; each of its events has an id that no other has.
func request(packet []byte, key string, turn int64) []byte {
	path, open, end := "/v1/events", "", ""
	if *events > 1 {
		path, open, end = "/v1/events/bulk", `{"events":[`, "]}"
	}
	body := make([]byte, 0, *events*200+32)
	body = append(body, open...)
	for place := range *events {
		if place > 0 {
			body = append(body, ',')
		}
		n := turn*int64(*events) + int64(place)
		body = fmt.Appendf(body, `{"event_id":"w%d","event_name":"api_call","external_customer_id":"c%d",`+
			`"timestamp":"2026-11-20T10:%02d:%02dZ","properties":{"region":"eu","tokens":"%d.5","model":"m-%d"}}`,
			n, n%1000, n%60, n*7%60, n%5000, n%7)
	}
	body = append(body, end...)
	packet = fmt.Appendf(packet, "POST %s HTTP/1.1\r\nhost: %s\r\nx-api-key: %s\r\n"+
		"content-type: application/json\r\ncontent-length: %d\r\n\r\n", path, *address, key, len(body))
	return append(packet, body...)
}

// exchange sends a request and reads its answer to the end; gives the status.
func exchange(link net.Conn, answers *bufio.Reader, packet []byte) int {
	if _, err := link.Write(packet); err != nil {
		panic(err)
	}
	answer, err := http.ReadResponse(answers, nil)
	if err != nil {
		panic(err)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		panic(err)
	}
	return answer.StatusCode
}
