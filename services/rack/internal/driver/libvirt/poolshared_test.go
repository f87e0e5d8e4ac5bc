package libvirt

import "testing"

// The XML is as libvirt documents it, and as `virsh pool-dumpxml` writes it.
func TestAPoolThatOtherHostsCanHaveSaysWhatIsBehindIt(t *testing.T) {
	for _, tt := range []struct{ name, xml, want string }{
		{"a folder", `<pool type='dir'><name>default</name><source/><target><path>/var/lib/libvirt/images</path></target></pool>`, ""},
		{"a volume group", `<pool type='logical'><name>vg</name><source><device path='/dev/sda1'/><name>vg</name><format type='lvm2'/></source></pool>`, ""},
		{"NFS", `<pool type='netfs'><name>nfs</name><source><host name='NAS.example'/><dir path='/export/vm/'/><format type='nfs'/></source><target><path>/mnt/a</path></target></pool>`, "nfs://nas.example/export/vm"},
		{"NFS, mounted elsewhere and found out by itself", `<pool type='netfs'><name>other</name><source><host name='nas.example'/><dir path='/export/vm'/><format type='auto'/></source><target><path>/mnt/b</path></target></pool>`, "nfs://nas.example/export/vm"},
		{"NFS with a space", `<pool type='netfs'><name>n</name><source><host name='nas'/><dir path='/a b'/></source></pool>`, "nfs://nas/a%20b"},
		{"CIFS", `<pool type='netfs'><name>c</name><source><host name='nas'/><dir path='share'/><format type='cifs'/></source></pool>`, "cifs://nas/share"},
		{"Gluster by its own client", `<pool type='netfs'><name>g</name><source><host name='g1'/><dir path='/volume/sub'/><format type='glusterfs'/></source></pool>`, "gluster://g1/volume"},
		{"Gluster", `<pool type='gluster'><name>g</name><source><host name='g1' port='24007'/><dir path='/sub'/><name>volume</name></source></pool>`, "gluster://g1/volume"},
		{"Ceph", `<pool type='rbd'><name>ceph</name><source><host name='10.0.0.2'/><host name='10.0.0.1' port='6789'/><host name='10.0.0.3' port='3300'/><name>vms</name>
			<auth type='ceph' username='libvirt'><secret uuid='2ec115d7-3a88-3ceb-bc12-0ac909a6fd87'/></auth></source></pool>`, "rbd://10.0.0.1,10.0.0.2,10.0.0.3:3300/vms"},
		{"Ceph without monitors", `<pool type='rbd'><name>ceph</name><source><name>vms</name></source></pool>`, ""},
		{"Sheepdog", `<pool type='sheepdog'><name>s</name><source><host name='localhost' port='7000'/><name>mypool</name></source></pool>`, "sheepdog://localhost/mypool"},
		{"iSCSI", `<pool type='iscsi'><name>i</name><source><host name='san'/><device path='iqn.2013-06.com.Example:iscsi-pool'/></source><target><path>/dev/disk/by-path</path></target></pool>`, "iscsi:///iqn.2013-06.com.example:iscsi-pool"},
		{"iSCSI without the kernel", `<pool type='iscsi-direct'><name>i</name><source><host name='san2'/><device path='iqn.2013-06.com.example:iscsi-pool'/><initiator><iqn name='iqn.2013-06.com.example:me'/></initiator></source></pool>`, "iscsi:///iqn.2013-06.com.example:iscsi-pool"},
		{"Virtuozzo", `<pool type='vstorage'><name>v</name><source><name>clname</name></source></pool>`, "vstorage:///clname"},
	} {
		p := pool{name: tt.name}
		if err := readPoolXML(&p, tt.xml); err != nil || p.shared != tt.want {
			t.Errorf("%s: %q, want %q (%v)", tt.name, p.shared, tt.want, err)
		}
	}
}
