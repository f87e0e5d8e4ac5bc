package libvirt

import "testing"

func TestTextIsChangedInPlacesAndKeptToTheLetter(t *testing.T) {
	const text = "<domain type='kvm'>\n  <!-- kept -->\n  <a:x xmlns:a=\"n\" q='1'/><disk  type = \"file\"><source file='/a&amp;b'/><new/></disk>\n  <disk/>\n</domain>\n"
	for _, test := range []struct {
		name   string
		change func(x *xmlText)
		want   string
	}{
		{"nothing", func(*xmlText) {}, text},
		{
			"an attribute to what it is", func(x *xmlText) { x.root.setAttr("type", "kvm") }, text,
		},
		{
			"attributes", func(x *xmlText) {
				x.root.setAttr("type", "a'b")
				x.root.first("x").setAttr("q", "")
				x.root.all("disk")[1].setAttr("type", "file")
			},
			"<domain type='a&#39;b'>\n  <!-- kept -->\n  <a:x xmlns:a='n'/><disk  type = \"file\"><source file='/a&amp;b'/><new/></disk>\n  <disk type='file'/>\n</domain>\n",
		},
		{
			"elements", func(x *xmlText) {
				x.replace(x.root.first("disk", "source"), "<source dev='/d'/>")
				x.replace(x.root.first("disk", "new"), "")
				x.replace(x.root.first("not", "there"), "<z/>")
			},
			"<domain type='kvm'>\n  <!-- kept -->\n  <a:x xmlns:a=\"n\" q='1'/><disk  type = \"file\"><source dev='/d'/></disk>\n  <disk/>\n</domain>\n",
		},
		{
			"an element and what is in it", func(x *xmlText) {
				x.root.first("disk", "source").setAttr("file", "/c")
				x.replace(x.root.first("disk"), "<gone/>")
			},
			"<domain type='kvm'>\n  <!-- kept -->\n  <a:x xmlns:a=\"n\" q='1'/><gone/>\n  <disk/>\n</domain>\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, err := readXMLText(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := x.root.first("disk", "source").attr("file"); got != "/a&b" {
				t.Errorf("the attribute is %q", got)
			}
			test.change(x)
			if got := x.String(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
	for _, broken := range []string{"", "<a", "<a><b></a", "</a>", "<a>", "text"} {
		if _, err := readXMLText(broken); err == nil {
			t.Errorf("%q is read", broken)
		}
	}
}
