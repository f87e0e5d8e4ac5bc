package store_test

import (
	"errors"
	"fmt"
	"testing"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestARangeThatWasWrittenMeanwhileFailsTheTransaction(t *testing.T) {
	s := storetest.New(t)
	put := func(ids ...string) int64 {
		t.Helper()
		tx := store.NewTxn()
		for _, id := range ids {
			store.Put(tx, store.Names, &storev1.StoredName{Uid: id}, "p", id)
		}
		rev, err := s.Commit(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	rev := put("b", "c", "d", "web-1")
	for _, tc := range []struct {
		name     string
		before   []string
		first    string
		last     string
		prefix   string
		conflict bool
	}{
		{name: "nothing was written", first: "b", last: "d"},
		{name: "an empty range", first: "x", last: "z"},
		{name: "an empty prefix", prefix: "db-"},
		{name: "below and above", before: []string{"a", "e", "d0"}, first: "b", last: "d"},
		{name: "the first", before: []string{"b"}, first: "b", last: "d", conflict: true},
		{name: "the last", before: []string{"d"}, first: "b", last: "d", conflict: true},
		{name: "a new one in between", before: []string{"c5"}, first: "b", last: "d", conflict: true},
		{name: "one key", first: "c", last: "c", before: []string{"c"}, conflict: true},
		{name: "one key and its neighbour", first: "c", last: "c", before: []string{"c0"}},
		{name: "beside the prefix", before: []string{"web"}, prefix: "web-"},
		{name: "a new one of the prefix", before: []string{"web-2"}, prefix: "web-", conflict: true},
	} {
		now := rev
		if len(tc.before) > 0 {
			rev = put(tc.before...)
		}
		tx := store.NewTxn()
		if tc.prefix != "" {
			tx.IfPrefixUnchanged(store.Names.Key("p", tc.prefix), now)
		} else {
			tx.IfUnchanged(store.Names.Key("p", tc.first), store.Names.Key("p", tc.last), now)
		}
		store.Put(tx, store.Names, &storev1.StoredName{}, "q", "x")
		_, err := s.Commit(t.Context(), tx)
		if got := errors.Is(err, store.ErrConflict); got != tc.conflict || err != nil && !got {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestATransactionOfFewComparesTakesThousandsOfWrites(t *testing.T) {
	s := storetest.New(t)
	tx := store.NewTxn()
	for i := range store.FewCompares {
		tx.IfAbsent(store.Names.Key("p", fmt.Sprint("absent-", i)))
	}
	for i := range store.ManyWrites {
		store.Put(tx, store.Names, &storev1.StoredName{Uid: "u"}, "p", fmt.Sprint("n", i))
	}
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if n := store.Names.Count(s.Cached(), store.ManyWrites+1, "p"); n != store.ManyWrites {
		t.Errorf("%d were written", n)
	}
}
