//! Whatever comes in: no panic, and what is written reads back the same.

use api::{
    Object, Schema,
    field::Path,
    jsonpath::JsonPath,
    patch,
    quantity::Quantity,
    selector::{FieldSelector, LabelSelector},
};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Map, Value, json};

/// JSON trees made of the words that patches and pods are made of.
fn tree() -> impl Strategy<Value = Value> {
    let words = [
        "spec",
        "containers",
        "name",
        "env",
        "ports",
        "containerPort",
        "metadata",
        "labels",
        "finalizers",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "status",
    ];
    let word = prop::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        prop::sample::select(vec!["delete", "replace", "merge", "500m", "2026-01-01T00:00:00Z"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 4, move |inner| {
        let fields = prop::collection::vec((word.clone(), inner.clone()), 0..4);
        let map = fields.prop_map(|f| {
            Value::Object(f.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())
        });
        prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Value::from), map]
    })
}

fn pod_schema() -> std::sync::Arc<Schema> {
    Schema::builtin("", "v1", "Pod").expect("pods are built in")
}

proptest! {
    #[test]
    fn quantities(text in "[+-]?[0-9]{0,20}(\\.[0-9]{0,25})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3})?") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let canonical = quantity.to_string();
            let again: Quantity = canonical.parse().expect("canonical forms parse");
            prop_assert_eq!(again.to_string(), canonical);
            let _ = (quantity.value(), quantity.milli_value(), quantity.add(&again), quantity.sub(&again));
        }
    }

    #[test]
    fn selectors(text in "[a-c!=,<> ()/.\\\\-]{0,12}( (in|notin) )?[a-c(),]{0,6}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let again = LabelSelector::parse(&selector.to_string()).expect("what is written can be read");
            prop_assert_eq!(again, selector);
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).ok(), Some(selector));
        }
    }

    #[test]
    fn paths(text in "[a-c.*@?(){}\\[\\]'\"=<0-9\\\\-]{0,16}", value in tree()) {
        if let Ok(path) = JsonPath::parse(&text) {
            path.find(&value);
        }
    }

    #[test]
    fn patches(original in tree(), change in tree()) {
        let schema = pod_schema();
        let (original, change) = (json!({"spec": original}), json!({"spec": change}));
        let _ = patch::strategic(&original, &change, Some(&schema));
        let _ = patch::merge(&original, &change);
        let _ = patch::json(&original, &json!([{"op": "add", "path": "/spec", "value": change}, change]));
    }

    #[test]
    fn objects(value in tree()) {
        let schema = pod_schema();
        let mut value = json!({"metadata": value, "spec": value, "status": value});
        schema.prune(&mut value);
        schema.default(&mut value);
        let _ = (schema.validate(&value, &Path::root()), schema.decode(&value));
        let mut again = value.clone();
        prop_assert_eq!(schema.prune(&mut again), Vec::<String>::new());
        prop_assert_eq!(&again, &value);
        let object = Object::try_from(value).expect("it is an object");
        prop_assert_eq!(Object::from_slice(&object.to_bytes()).ok(), Some(object.clone()));
        for resource in api::Catalog::builtin().iter() {
            api::table::row(resource, &object, api::table::IncludeObject::None, api::time::now());
            api::fields::selectable(resource, &object);
        }
    }

    #[test]
    fn custom_schemas(schema in tree(), value in tree()) {
        let schema = json!({"type": "object", "properties": {"spec": schema}, "x-kubernetes-preserve-unknown-fields": true});
        if let Ok(schema) = Schema::from_open_api(&schema, &Path::root()) {
            let mut value = value;
            schema.prune(&mut value);
            schema.default(&mut value);
            schema.validate(&value, &Path::root());
        }
    }
}
