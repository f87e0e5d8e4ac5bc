package operation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestACheckCarriesItsCredentialSealedAndForgetsIt_P8(t *testing.T) {
	w := newWorld(t)
	key, err := pki.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Racks.Get(w.store.Cached(), "r1")
	rack := proto.CloneOf(rec.Value)
	rack.HpkePublicKey = key.Public()
	tx := store.NewTxn()
	store.Put(tx, store.Racks, rack, "r1")
	w.put(tx)
	e := w.run(nil)
	op, err := e.Check(t.Context(), "alice", &vmhostv1.CheckVmHostRequest{
		Address: "fake://new", Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: "hush"}}, RequestId: uuid.NewString(),
	})
	if err != nil {
		t.Fatal(err)
	}
	end := w.ended(op.GetName())
	res := &vmhostv1.CheckVmHostResult{}
	if end.GetPhase() != succeeded || end.GetResponse().UnmarshalTo(res) != nil || res.GetRack() != "racks/r1" || res.GetHostKey() == "" {
		t.Errorf("check %v", end)
	}
	sealed := w.rack.sent("check")[0].GetCheckHost().GetSealedCredential()
	plain, err := key.Open([]byte("check/"+op.GetName()), sealed)
	if err != nil || !strings.Contains(string(plain), "hush") {
		t.Errorf("sealed %q, %v", plain, err)
	}
	stored := w.operation(op.GetName())
	if len(stored.GetEncryptedCredential()) != 0 || strings.Contains(fmt.Sprint(stored), "hush") {
		t.Errorf("the record keeps the credential: %v", stored)
	}
}
