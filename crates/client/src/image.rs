//! Images: `/api/v1/images`.

use hostler_model::{api::Page, image::Image};

use crate::{Client, ClientError, Paging, call::Call};

impl Client {
    /// A page of images.
    pub async fn images_page(&self, paging: &Paging) -> Result<Page<Image>, ClientError> {
        self.page(Call::get("/api/v1/images"), paging).await
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        self.every(Call::get("/api/v1/images"), None).await
    }
}
