package feed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/google/uuid"
)

// The files are not in the repository, these are: whoever makes them anywhere has
// the same.
func TestTheFilesOfASetAreTheSameBytesEverywhere(t *testing.T) {
	const uniform, mixed = "6b378cfdca593056eced297994b7317dd97f5696c7bb0c7eb9a14bdee8611019", "7e09e768e580a833745db85b31ff78107ec917c4ec75b909462f5847fc544144"
	want := map[string][2]string{
		"uniform-1000": {"c6b394f59c4fd67b97ed736879b3c1471e7f3f52682a724cc7e5053564e8ce2e", uniform},
		"uniform-5000": {"0324cc27d6142f099999f62c4caec6b49ee1f30518707554e9668bcbd2318e70", uniform},
		"mixed-1000":   {"37067511b9d766a571b054959435ff4ae066083ee9e758eecf744e1bedef73b6", mixed},
		"mixed-5000":   {"771a4ab2d8315b7dc0eac8cd866d79cd012643e4e29d884a90ea37706b37b383", mixed},
	}
	for _, s := range Sets() {
		t.Run(s.Name, func(t *testing.T) {
			if got := [2]string{sum(t, s.Fleet()), sum(t, s.Stream())}; got != want[s.Name] {
				t.Errorf("hosts.jsonl, requests.jsonl: %q, want %q", got, want[s.Name])
			}
		})
	}
}

func sum[T any](t *testing.T, values []T) string {
	t.Helper()
	h := sha256.New()
	if err := Lines(h, values); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestAnotherSeedMakesAnotherFleetAndOtherRequests(t *testing.T) {
	a, b := Sets()[2], Sets()[2]
	b.Seed = 2
	if sum(t, a.Fleet()) == sum(t, b.Fleet()) || sum(t, a.Stream()) == sum(t, b.Stream()) {
		t.Error("the seed changes nothing")
	}
}

func TestEveryLineIsWhatAPeerTakes(t *testing.T) {
	for _, s := range Sets() {
		zones, ids := map[string]string{}, map[string]bool{}
		id := func(what string) {
			if _, err := uuid.Parse(what); err != nil || ids[what] {
				t.Fatalf("%s: uuid %q: %v, seen before: %t", s.Name, what, err, ids[what])
			}
			ids[what] = true
		}
		biggest := Resources[int64]{}
		for _, h := range s.Fleet() {
			id(h.Provider.UUID)
			zones[h.Zone] = h.Aggregates[0]
			for _, i := range []Inventory{h.Inventories.VCPU, h.Inventories.MemoryMB, h.Inventories.DiskGB} {
				if i.Total < 1 || i.MaxUnit != i.Total || i.AllocationRatio < 1 || len(h.Traits) != len(h.Tags) {
					t.Fatalf("%s: %+v", s.Name, h)
				}
			}
			biggest.VCPU = max(biggest.VCPU, h.Inventories.VCPU.Total)
			biggest.MemoryMB = max(biggest.MemoryMB, h.Inventories.MemoryMB.Total)
			biggest.DiskGB = max(biggest.DiskGB, h.Inventories.DiskGB.Total)
		}
		constrained := 0
		for _, q := range s.Stream() {
			id(q.Consumer)
			if q.Resources.VCPU > biggest.VCPU || q.Resources.MemoryMB > biggest.MemoryMB || q.Resources.DiskGB > biggest.DiskGB {
				t.Fatalf("%s: %+v fits nowhere", s.Name, q)
			}
			if q.Zone != "" || len(q.RequiredTags)+len(q.ForbiddenTags) > 0 {
				constrained++
			}
			if _, known := zones[q.Zone]; !known && q.Zone != "" {
				t.Fatalf("%s: no host is in %s", s.Name, q.Zone)
			}
		}
		if s.Mixed != (constrained > s.Requests/3) {
			t.Errorf("%s: %d of %d requests have constraints", s.Name, constrained, s.Requests)
		}
	}
}

func TestLinesAreReadAsTheyWereWritten(t *testing.T) {
	s := Set{Hosts: 3, Requests: 3, Mixed: true, Seed: 7}
	var out bytes.Buffer
	if err := Lines(&out, s.Stream()); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(&out)
	for i := range s.Stream() {
		var got Request
		if !scan.Scan() {
			t.Fatal("too few lines")
		}
		if err := json.Unmarshal(scan.Bytes(), &got); err != nil || got.Query != s.Stream()[i].Query {
			t.Errorf("line %d: %+v, %v", i, got, err)
		}
	}
	if scan.Scan() {
		t.Error("too many lines")
	}
}
